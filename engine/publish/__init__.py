"""The trained model as a folder that other software loads: transformers 4 and 5, peft, vLLM,
llama.cpp.

model.py        writes model/ whole or not at all
config.py       the base model's config.json and generation_config.json, with what changed
tokenizer.py    the base model's tokenizer files, byte for byte where they are enough
usage.py        code for the model card that loads it
older.py        what transformers 4 needs in files that transformers 5 wrote
"""

"""Whether a model that was written still is the model that was trained.

questions.py   what to ask: the train's held-out rows, as tokens
evidence.py    what a model answers: greedy answers, log-probabilities, scores
checks.py      the comparisons, each with a verdict and its figures in words
prove.py       the proof of a merge: __main__.py is its program
reference.py   what the trained model answered, in a file
report.py      what the programs print
request.py     what the proof of an export is asked
exported.py    the proof of an export, a program
gguf.py        of GGUF files, by llama.cpp
ollama.py      of folders for Ollama
folders.py     of safetensors and adapters, by transformers and peft
llama_cpp.py   llama.cpp's answers
rounding.py    what rounding alone does to the answers
"""

"""A model written in the forms that other programs read.

request.py     what is asked for and what was made
formats.py     the formats, one function each
folders.py     safetensors in shards of a chosen size, and the adapter alone
gguf.py        llama.cpp's format: the whole model, or its adapter
converter.py   llama.cpp's own converter, in a process of its own
pre_tokenizers.py  which of llama.cpp's a tokenizer has, where the converter does not know it
quantization.py  fewer bits a weight
ollama.py      a folder that `ollama create` takes
ollama_template.py  the chat template in Ollama's language, held equal
go_template.py      what we write of that language, and how Ollama reads it
modelfile.py        the Modelfile, written and read
documents.py   README, licences and passport of every export
__main__.py    the program
"""

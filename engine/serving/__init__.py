"""Answers of models: a process that serves one base model with its adapters.

order.py         what it is ordered to serve, and how it says that it is ready
__main__.py      the program
backends.py      which library serves a folder, and why
prepare.py       the files that llama.cpp serves, a program
check.py         whether they answer as the trained model, a program
folders.py       where a train has left its template and end tokens
llama_cpp.py     answers by llama.cpp
vllm.py          answers by vLLM
transformers.py  answers by transformers and peft, of which
    endpoints.py, http_api.py, requests.py       are OpenAI's API
    variants.py                                  the base and its adapters, each with its template
    generation.py, sampling.py                   the thread that writes, and its choice of tokens
    answers.py, answer_text.py, token_bytes.py   text and log-probabilities of an answer
    tool_call_format.py                          calls of tools, read back
"""

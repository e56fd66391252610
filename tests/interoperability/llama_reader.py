"""Greedy answers by llama.cpp, in a process of its own that has xllamacpp on its path.

    python llama_reader.py MODEL.gguf [ADAPTER.gguf]

Reads {"prompts": [token ids, …], "new": how many} from standard input and prints the answers' token
ids.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import xllamacpp


def server(model: str, adapter: str = "") -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = 512
    params.n_parallel = 1
    params.cpuparams.n_threads = 2
    params.verbosity = -1
    if adapter:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
    return xllamacpp.Server(params)


def answer(running: Any, prompt: list[int], new: int) -> list[int]:
    request = {
        "prompt": prompt,
        "max_tokens": new,
        "temperature": 0,
        "logprobs": 1,
        "cache_prompt": False,
    }
    found = running.handle_completions(request)["choices"][0]
    return [token["id"] for token in found["logprobs"]["content"]]


def main(arguments: list[str]) -> None:
    request = json.load(sys.stdin)
    running = server(*arguments)
    answers = [answer(running, prompt, request["new"]) for prompt in request["prompts"]]
    sys.stdout.write(json.dumps(answers) + "\n")


main(sys.argv[1:])

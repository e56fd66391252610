"""What a model server is told to serve, and how it says that it is ready.

    python -m engine.serving < ORDER

reads one ServeOrder as a line of JSON from standard input, prints JSON lines ({"phase": "Loading
the model"}, then {"ready": Ready} or {"error": "a reason for people"}), and answers by HTTP on the
loopback interface until standard input closes. Each backend speaks llama.cpp's form of OpenAI's
API: /v1/chat/completions, /v1/completions, /v1/embeddings, /tokenize, /apply-template and
/health."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

LLAMA_CPP = "llama.cpp"
TRANSFORMERS = "transformers"
VLLM = "vllm"
BACKENDS = (LLAMA_CPP, TRANSFORMERS, VLLM)


@dataclass(frozen=True)
class Adapter:
    """key: its name for the gateway, also the name by which requests choose it. path: a peft
    folder, for llama.cpp a GGUF file."""

    key: str
    path: str


@dataclass(frozen=True)
class ServeOrder:
    """backend: of BACKENDS. base: the folder of a model, for llama.cpp a GGUF file. context:
    tokens of one conversation, prompt and answer together; 0 for what the model was trained with, as
    far as memory allows. parallel: conversations that are answered at once; others wait. threads:
    of the processor; 0 for as many as the machine has. idle_priority: once it
    has loaded, it computes only while nothing else wants the processor."""

    backend: str
    base: str
    adapters: list[Adapter] = field(default_factory=list)
    context: int = 0
    parallel: int = 4
    threads: int = 0
    idle_priority: bool = False
    embeddings: bool = False


def order_read(line: str) -> ServeOrder:
    """The order that asdict and json made a line of."""
    stored = json.loads(line)
    adapters = [Adapter(**adapter) for adapter in stored.pop("adapters", [])]
    return ServeOrder(**stored, adapters=adapters)


@dataclass(frozen=True)
class Ready:
    """url: of the server, without a path. key: its bearer token. context: tokens of one
    conversation. extras: of each adapter's key, and "" for the base alone, the fields that a
    request must have: {"lora": [{"id": 0, "scale": 1.0}, …]}. abilities: those of "tools",
    "json_schema", "json_object", "logprobs", "n", "min_p", "penalties", "seed", "embeddings" that
    it has. most_choices: the largest `n` of a request. parallel: conversations that it answers at
    once; 0 for as many as the order says. marks: ids of the tokens that are marks of a template and
    no text."""

    url: str
    key: str
    context: int
    extras: dict[str, dict[str, object]]
    abilities: list[str]
    most_choices: int = 1
    parallel: int = 0
    marks: list[int] = field(default_factory=list)

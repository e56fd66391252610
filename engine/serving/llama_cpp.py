"""Answers by llama.cpp: its own server, as the package xllamacpp brings it, in this process."""

from __future__ import annotations

import json
import resource
import secrets
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.loading.architecture import Refused
from engine.models.inspect_gguf import GgufProblem, integers_read
from engine.run.hardware import machine_memory, thread_count
from engine.serving.order import Adapter, Ready, ServeOrder

# The share of the machine's memory that the KV cache may take, where the order leaves that open.
CACHE_SHARE = 1 / 16
# Of fewer nobody has use.
LEAST_CONTEXT = 512
# Where memory is short, fewer are answered at once rather than shorter conversations than this.
USEFUL_CONTEXT = 4096
# Bytes of a number in the KV cache: it is of type f16.
NUMBER_BYTES = 2
# What answering may take beyond what is taken once the model is loaded. llama.cpp writes a JSON
# schema out as a grammar, and one that contradicts itself ("at least 5, at most 2") without end.
WORKING_BYTES = 512 * 2**20
# A thread for each connection that is open, those that only wait included.
HTTP_THREADS = 64

# Types of tokens, as the file names them: those of the template's marks.
CONTROL = 3
TYPES_KEY = "tokenizer.ggml.token_type"

ABILITIES = ("json_schema", "json_object", "logprobs", "n", "min_p", "penalties", "seed")
TOOL_CAPABILITIES = ("supports_tools", "supports_tool_calls")

# A server ends with its object.
RUNNING: list[Any] = []


@dataclass(frozen=True)
class Cache:
    """context: tokens of one conversation. parallel: conversations at once."""

    context: int
    parallel: int

    @property
    def pool(self) -> int:
        """Tokens of all together. Never fewer than they have at their longest: llama.cpp ends all
        answers once it is full."""
        return self.context * self.parallel


def start(order: ServeOrder) -> Ready:
    """Load the model and answer. Raises Refused for a file that cannot be read, and RuntimeError
    where llama.cpp refuses it."""
    # Here, because it starts llama.cpp.
    import xllamacpp

    facts = _facts_read(Path(order.base))
    cache = cache_plan(order, facts, int(machine_memory() * CACHE_SHARE))
    key = secrets.token_hex(16)
    is_pooled = any(name.endswith(".pooling_type") for name in facts)
    server = xllamacpp.Server(_params(order, cache, key, is_pooled=is_pooled))
    RUNNING.append(server)
    url = str(server.listening_address)
    _memory_limit()

    abilities = ["embeddings"] if order.embeddings else list(ABILITIES)
    if not order.embeddings and _knows_tools(url, key):
        abilities.append("tools")

    return Ready(
        url=url,
        key=key,
        context=cache.context,
        extras=extras_of(order.adapters),
        abilities=abilities,
        most_choices=cache.parallel,
        parallel=cache.parallel,
        marks=[number for number, kind in enumerate(facts.get(TYPES_KEY, [])) if kind == CONTROL],
    )


def _facts_read(file: Path) -> dict[str, list[int]]:
    try:
        return integers_read(file)
    except GgufProblem as error:
        raise Refused(str(error)) from error


def cache_plan(order: ServeOrder, facts: dict[str, list[int]], budget: int) -> Cache:
    """How long conversations can be, and how many there are at once. facts: integers of the file's
    metadata. budget: bytes that the KV cache may take."""
    trained = _number(facts, "context_length") or LEAST_CONTEXT
    room = max(LEAST_CONTEXT, budget // max(1, _token_bytes(facts)))
    wanted = order.context or max(room // order.parallel, min(room, USEFUL_CONTEXT))
    context = min(trained, wanted)

    return Cache(context, max(1, min(order.parallel, room // context)))


def _token_bytes(facts: dict[str, list[int]]) -> int:
    """What the KV cache takes of a token, at most; models with windows or a state take less."""
    layers = _number(facts, "block_count")
    heads = _number(facts, "attention.head_count")
    width = _number(facts, "embedding_length") // max(1, heads)
    keys = _number(facts, "attention.key_length") or width
    values = _number(facts, "attention.value_length") or width
    pairs = _number(facts, "attention.head_count_kv") or heads

    return layers * pairs * (keys + values) * NUMBER_BYTES


def _number(facts: dict[str, list[int]], name: str) -> int:
    """The value of the architecture's own key; the largest where layers differ, 0 where there is
    none."""
    found = [max(values, default=0) for key, values in facts.items() if key.endswith(f".{name}")]
    return max(found, default=0)


def _params(order: ServeOrder, cache: Cache, key: str, *, is_pooled: bool) -> Any:
    """is_pooled: whether the file says how its tokens become one embedding; else it is their
    mean."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = order.base
    # Answers would name the file else.
    params.model_alias = {"model"}
    params.n_ctx = cache.pool
    params.n_parallel = cache.parallel
    params.kv_unified = True
    params.kv_unified_per_slot = cache.context
    params.fit_params = False
    params.n_gpu_layers = 0

    threads = order.threads or thread_count()
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.n_threads_http = HTTP_THREADS

    params.use_jinja = True
    # An answer that is given is rendered, and not carried on.
    params.prefill_assistant = False
    params.embedding = order.embeddings
    if order.embeddings and not is_pooled:
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN

    params.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(adapter.path, 1.0) for adapter in order.adapters
    ]
    # Requests say which they want.
    params.lora_init_without_apply = True
    _caches_of_one_adapter(params)
    _defaults_set(params.sampling)

    # The server listens on this machine, to whoever knows this.
    params.port = 0
    params.api_keys = [key]
    params.ui = False
    params.endpoint_slots = False
    # Errors alone.
    params.verbosity = 1

    return params


def _caches_of_one_adapter(params: Any) -> None:
    """Leave only the cache that llama.cpp empties when a conversation changes its adapter. What it
    keeps of earlier ones elsewhere it finds by their tokens alone: a base model could go on from
    what an adapter has computed."""
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.n_ctx_checkpoints = 0
    # Without these, models with sliding windows would compute each turn from its beginning.
    params.swa_full = True


def _defaults_set(sampling: Any) -> None:
    """For requests that name none: as OpenAI's API says."""
    sampling.temp = 1.0
    sampling.top_p = 1.0
    sampling.top_k = 0
    sampling.min_p = 0.0


def extras_of(adapters: list[Adapter]) -> dict[str, dict[str, object]]:
    """Each names all adapters. A request without `lora` would go on from the cache of whatever
    request was before."""

    def scales(wanted: str) -> list[dict[str, object]]:
        return [
            {"id": number, "scale": 1.0 if adapter.key == wanted else 0.0}
            for number, adapter in enumerate(adapters)
        ]

    keys = ["", *(adapter.key for adapter in adapters)]
    return {key: {"lora": scales(key)} for key in keys}


def _knows_tools(url: str, key: str) -> bool:
    """Whether the chat template has a place for tools: others pass over them without a word."""
    request = urllib.request.Request(  # noqa: S310 - the server above
        f"{url}/props", headers={"Authorization": f"Bearer {key}"}
    )
    # Whatever proxy the environment names, this stays on the machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request) as response:
        known = json.load(response).get("chat_template_caps") or {}

    return all(known.get(name) for name in TOOL_CAPABILITIES)


def _memory_limit() -> None:
    """Refuse memory beyond WORKING_BYTES from now on: the request that wants it fails, and not this
    process or another one. Weights that are read from the file do not count."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return

    taken = next((int(line.split()[1]) for line in lines if line.startswith("VmData:")), 0)
    if taken:
        limit = taken * 1024 + WORKING_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

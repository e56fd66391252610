"""Answers by vLLM, where it is installed and there is a GPU: its own server, as a child, behind endpoints
of ours that know llama.cpp's form of /tokenize and /apply-template.

Where this was written there was no GPU: its arguments and the endpoints are tested, vLLM was not run."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import aiohttp
from aiohttp import web

from engine.loading.architecture import Refused
from engine.models.inspect import json_read
from engine.process.isolation import die_with_parent
from engine.serving.endpoints import Endpoints, body_read, listen
from engine.serving.order import Adapter, Ready, ServeOrder
from engine.serving.requests import BadRequest
from engine.serving.variants import Variant, Variants

BASE = "base"
ABILITIES = ("json_schema", "json_object", "logprobs", "n", "min_p", "penalties", "seed")
MOST_CHOICES = 128
# Ranks that vLLM takes for --max-lora-rank.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# Its parsers of calls, by the mark in front of one.
PARSERS = {"<tool_call>": "hermes", "[TOOL_CALLS]": "mistral"}
# A large model, compiled and captured.
START_SECONDS = 1800
USUAL_CONTEXT = 2048
# Of the GPU's memory, for weights and KV cache. The gateway has one such server at a time.
GPU_SHARE = "0.85"


def start(order: ServeOrder) -> Ready:
    """Load the model and answer. Raises Refused where vLLM ends before it answers."""
    base = Path(order.base)
    variants = Variants.load(base, order.adapters)
    inner, port = secrets.token_hex(16), _free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main"]
    process = subprocess.Popen(  # noqa: S603 - a list, no shell
        [*command, *arguments_of(order, port, parser_of(variants.base))],
        # Others may read the arguments of a process, and not its environment.
        env={**os.environ, "VLLM_API_KEY": inner, "HF_HUB_OFFLINE": "1", "VLLM_DO_NOT_TRACK": "1"},
        stdin=subprocess.DEVNULL,
        preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGKILL),
    )
    upstream = f"http://127.0.0.1:{port}"
    _wait(process, upstream)

    key = secrets.token_hex(16)
    url = listen(Front(variants, key, upstream, inner).application())
    return Ready(
        url=url,
        key=key,
        context=context_of(order),
        extras={name: {"model": name or BASE, "adapter": name} for name in variants.by_key},
        abilities=[*ABILITIES, *(["tools"] if parser_of(variants.base) else [])],
        most_choices=MOST_CHOICES,
        marks=variants.base.marks,
    )


def arguments_of(order: ServeOrder, port: int, parser: str) -> list[str]:
    """Of the program vllm. parser: of tool calls, "" for none."""
    arguments = ["serve", order.base, "--host", "127.0.0.1", "--port", str(port)]
    # Not what the model's own files say of temperature and the like.
    arguments += ["--served-model-name", BASE, "--generation-config", "vllm"]
    arguments += ["--max-model-len", str(context_of(order)), "--max-num-seqs", str(order.parallel)]
    arguments += ["--gpu-memory-utilization", GPU_SHARE]

    if parser:
        arguments += ["--enable-auto-tool-choice", "--tool-call-parser", parser]

    if order.adapters:
        arguments += ["--enable-lora", "--max-loras", str(len(order.adapters))]
        arguments += ["--max-lora-rank", str(rank_of(order.adapters)), "--lora-modules"]
        arguments += [f"{adapter.key}={adapter.path}" for adapter in order.adapters]

    return arguments


def rank_of(adapters: list[Adapter]) -> int:
    """The least value of --max-lora-rank that all adapters fit. Raises Refused for larger ones."""
    highest = 1
    for adapter in adapters:
        config = json_read(Path(adapter.path) / "adapter_config.json")
        highest = max(highest, config.get("r") or 0, *(config.get("rank_pattern") or {}).values())

    for rank in RANKS:
        if rank >= highest:
            return rank

    raise Refused(f"vLLM takes adapters of rank {RANKS[-1]} at most, and this one has {highest}.")


def parser_of(variant: Variant) -> str:
    """vLLM's parser of this model's tool calls, "" for none."""
    form = variant.calls
    if form is None or form.between is not None:
        return ""

    return PARSERS.get(form.opening, "")


def context_of(order: ServeOrder) -> int:
    config = json_read(Path(order.base) / "config.json")
    config = config.get("text_config") or config
    trained = config.get("max_position_embeddings") or order.context or USUAL_CONTEXT
    return int(min(order.context or trained, trained))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    # Whatever proxy the environment names, this stays on the machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS

    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Refused(f"vLLM ended with {process.returncode} while it loaded the model.")

        try:
            with opener.open(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)

    process.kill()
    raise Refused(f"vLLM did not answer within {START_SECONDS / 60:.0f} minutes.")


class Front(Endpoints):
    """upstream: vLLM's address, inner: its key."""

    def __init__(self, variants: Variants, key: str, upstream: str, inner: str) -> None:
        super().__init__(variants, key)
        self.upstream = upstream
        self.inner = inner

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._passed_on(request)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        return await self._passed_on(request)

    async def _passed_on(self, request: web.Request) -> web.StreamResponse:
        body = await body_read(request)
        if not isinstance(body, dict):
            raise BadRequest("The request is no JSON object.")

        body.pop("adapter", None)
        headers = {"Authorization": f"Bearer {self.inner}"}
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
            session.post(f"{self.upstream}{request.path}", json=body, headers=headers) as answer,
        ):
            response = web.StreamResponse(
                status=answer.status,
                headers={"Content-Type": answer.headers.get("Content-Type", "application/json")},
            )
            await response.prepare(request)
            async for part in answer.content.iter_any():
                await response.write(part)

        return response

"""A gateway with a tiny model: real model servers, and facts that a test can set."""

import asyncio
import contextlib
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.publish.older import json_change
from serving import leases
from serving.gateway import gateway
from serving.gateway.app import app_run
from serving.gateway.facts import Facts, Spot
from serving.gateway.gateway import Gateway
from serving.targets import Placement
from tests.engine.test_gguf_adapter import adapter_made, sentencepiece_model
from tests.tiny import tiny_model


class House:
    """A running gateway in a thread, and what it believes of the platform."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.facts = Facts()
        self.gone: dict[str, str] = {}
        self.socket = home / "gateway.sock"
        self.ready: Future[Gateway] = Future()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.serve()))

    async def serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.stopped = asyncio.Event()
        gateway = Gateway(
            read_facts=lambda: self.facts,
            find_gone=lambda keys: {key: self.gone[key] for key in {*keys} & self.gone.keys()},
            tell_answers=lambda facts, is_asked, is_loaded: None,
            clean=lambda loaded: None,
        )
        self.ready.set_result(gateway)
        await app_run(gateway, self.socket, self.stopped)

    def set(self, train: str = "", **changes: object) -> None:
        """train: the title of one that has the device."""
        self.facts = replace(self.facts, spot=Spot(train=train), **changes)

    @property
    def gateway(self) -> Gateway:
        return self.ready.result(10)

    def state(self) -> dict:
        async def ask() -> dict:
            return self.gateway.state()

        return asyncio.run_coroutine_threadsafe(ask(), self.loop).result(10)

    def run(self, coroutine):
        """In an event loop of its own, as the web server's is."""

        return asyncio.run(closing(coroutine))

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.stopped.set)
        self.thread.join(20)


def listens(path: Path) -> bool:
    """Its file is there a moment before anybody listens."""
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(str(path))
        return True

    return False


async def closing(coroutine):
    try:
        return await coroutine
    finally:
        await leases.sessions_close()


@pytest.fixture(scope="session")
def tiny_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="deepextension-serving-") as folder:
        sentencepiece_model(Path(folder) / "tiny", "gemma2", query_pre_attn_scalar=8)
        # With others, random weights answer with halves of characters, which llama.cpp holds back.
        torch.manual_seed(6)
        adapter_made(Path(folder) / "tiny", Path(folder) / "adapter")
        yield Path(folder)


@pytest.fixture
def house(tiny_folder, settings, warm, warm_programs, monkeypatch) -> Iterator[House]:
    monkeypatch.setattr(gateway, "TICK_SECONDS", 0.1)
    monkeypatch.setattr(gateway, "LOOK_SECONDS", 0.1)
    if warm.control is None:
        # Here: it would end with the gateway's thread.
        warm.start()

    settings.HOME = tiny_folder / "home"
    settings.HOME.mkdir(exist_ok=True)
    running = House(Path(tempfile.mkdtemp(prefix="gw-")))
    settings.GATEWAY_SOCKET = running.socket
    running.thread.start()
    while not listens(running.socket):
        assert running.thread.is_alive()
        time.sleep(0.01)
    yield running
    running.close()
    shutil.rmtree(running.home, ignore_errors=True)


@pytest.fixture
def base(tiny_folder) -> Placement:
    return Placement("model-1", str(tiny_folder / "tiny"), size_bytes=1_000_000)


@pytest.fixture
def tuned(tiny_folder) -> Placement:
    return Placement(
        "model-1",
        str(tiny_folder / "tiny"),
        "train-1",
        str(tiny_folder / "adapter"),
        size_bytes=1_000_000,
    )


@pytest.fixture
def unknown(tiny_folder) -> Placement:
    """A model whose tokenizer llama.cpp does not know."""
    folder = tiny_folder / "unknown"
    if not folder.is_dir():
        tiny_model(folder)
        json_change(folder / "tokenizer.json", spaced)
    return Placement("model-3", str(folder), size_bytes=1_000_000)


def spaced(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """With a space in front of each text."""
    pre_tokenizer = tokenizer["pre_tokenizer"] | {"add_prefix_space": True}
    return tokenizer | {"pre_tokenizer": pre_tokenizer}


@pytest.fixture
def different(tiny_folder) -> Placement:
    """A model whose prompts llama.cpp writes otherwise than in training."""
    folder = tiny_folder / "different"
    if not folder.is_dir():
        sentencepiece_model(folder, "llama")
    return Placement("model-4", str(folder), size_bytes=1_000_000)


@pytest.fixture
def other(tiny_folder) -> Placement:
    """Another model."""
    folder = tiny_folder / "other"
    if not folder.is_dir():
        shutil.copytree(tiny_folder / "tiny", folder)
    return Placement("model-2", str(folder), size_bytes=1_000_000)

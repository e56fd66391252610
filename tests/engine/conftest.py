"""One tiny model for all tests of the engine that need no particular architecture."""

import functools
import gc
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.process import preload
from engine.run import hardware
from models_app.management.commands.smollm2_install import package_file
from tests.tiny import tiny_model


@pytest.fixture(scope="session", autouse=True)
def known_machine() -> Iterator[None]:
    """All that trains import is there to stay for garbage collection, see tests/conftest.py; and how
    much faster this machine is in bf16 is measured once and not by each train."""
    for name in preload.MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "bf16_gain", functools.cache(hardware.bf16_gain))
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def smollm2_tokenizer():
    """A real tokenizer that llama.cpp knows."""
    from transformers import AutoTokenizer

    file = package_file()
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)

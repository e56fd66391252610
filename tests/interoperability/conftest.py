"""Readers of other versions. One test process runs them all: each costs some seconds to start."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

from tests.interoperability.environments import ALL, Reader, packages

if not ALL:
    collect_ignore = ["test_families.py", "test_llama_cpp.py"]


@pytest.fixture(scope="package", autouse=True)
def quiet():
    """Thousands of warnings about made-up configs help nobody."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def cache(request) -> Path:
    return request.config.cache.mkdir("interoperability")


@pytest.fixture(scope="session")
def older(cache) -> Iterator[Reader]:
    """transformers 4.57 with the peft of its time."""
    with Reader(packages("transformers-4", cache)) as reader:
        found = reader.ask("versions")
        assert found["transformers"].startswith("4.57."), found
        yield reader

"""Versions of code and libraries. Ranks that compute with different ones would learn different
things, or wait for each other for ever."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from engine.cluster.code import engine_hash
from engine.messages.failures import TrainError

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
PYTHON = "Python"
ENGINE = "engine"
ABSENT = "none"


def versions_here() -> dict[str, str]:
    python = ".".join(platform.python_version_tuple()[:2])
    return {ENGINE: engine_hash(), PYTHON: python} | {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str:
    """Without what torch adds for the kind of GPU it is built for."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return ABSENT


def versions_check(expected: dict[str, str], node: str) -> None:
    """Raises TrainError where this node has others."""
    here = versions_here()
    other = [name for name in expected if here.get(name) != expected[name]]
    if not other:
        return

    theirs = ", ".join(f"{name} {here.get(name, ABSENT)}" for name in other)
    ours = ", ".join(f"{name} {expected[name]}" for name in other)
    raise TrainError(
        "other_version",
        f"Node {node} has {theirs}; this platform has {ours}.",
        "Ask your operator to install the same versions on all nodes of the Ray cluster.",
    )

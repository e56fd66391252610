"""Where a fast path fails, the plain one takes over, even in the middle of a train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from engine.messages.failures import OUT_OF_MEMORY, failure_from_text, last_line

# What a kernel raises that cannot do what it is asked for. Not Exception: a stop, and the exception
# by which gradient checkpointing ends a forward pass that it repeats, must reach their callers.
FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ImportError,
    NotImplementedError,
)

_failed: set[str] = set()
_report: Callable[[str], None] = print


def begin(report: Callable[[str], None]) -> None:
    """A new train: every path may be tried again, and `report` writes a line of its log."""
    global _report
    _report = report
    _failed.clear()


def attempt(name: str, fast: Callable[[], Any], plain: Callable[[], Any]) -> Any:
    """The result of `fast`; from its first failure on, that of `plain`. `name`: what the log calls
    the fast path. Lack of memory is not a failure of the path, and is raised."""
    if name in _failed:
        return plain()

    try:
        return fast()
    except torch.OutOfMemoryError:
        raise
    except FAILURES as error:
        if failure_from_text(str(error)) is OUT_OF_MEMORY:
            raise

        _failed.add(name)
        _report(f"fast path off, the plain one takes over: {name}: {last_line(error)}")
        return plain()

"""Limits on a process that reads strangers' files."""

from __future__ import annotations

import resource
from pathlib import Path


def process_limit(*, memory_bytes: int, seconds: int | None = None) -> None:
    """Bound the memory and processor time of this process, which does one piece of work and ends.

    memory_bytes: beyond what it uses already. Memory that is refused is a MemoryError. Programs
    that it starts may set limits of their own.
    """
    # The sixth number: pages of data and stack.
    data_pages = int(Path("/proc/self/statm").read_text().split()[5])
    data_bytes = data_pages * resource.getpagesize()
    _limit(resource.RLIMIT_DATA, data_bytes + memory_bytes)

    if seconds is not None:
        _limit(resource.RLIMIT_CPU, seconds)


def _limit(kind: int, wanted: int) -> None:
    """Lower the soft limit to `wanted`, or to the hard limit if that is lower."""
    _, hard = resource.getrlimit(kind)
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (soft, hard))

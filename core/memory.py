"""What can be measured about a process that was killed: whether the kernel killed something for
lack of memory at that time, how much memory the process used, and how full memory was.

Linux counts the processes that it kills for memory, for each control group and for the whole
machine (Documentation/admin-guide/cgroup-v2.rst, memory.events; /proc/vmstat, oom_kill). Elsewhere
nothing is known."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
# Memory as full as this leaves no room for the next step.
NEARLY_FULL = 0.95
# How long the cause of a death may lie before its notice: a large process takes seconds to exit.
WINDOW_SECONDS = 10


@dataclass(frozen=True)
class Memory:
    """Bytes in use and in all, of the machine or of the container where that has less.

    `oom_kills`: {counter: value}.
    """

    used: int
    total: int
    oom_kills: dict[str, int]

    @property
    def is_nearly_full(self) -> bool:
        return self.total > 0 and self.used >= NEARLY_FULL * self.total


@dataclass(frozen=True)
class Death:
    """What was measured around the death of a process. `peak`: the most memory that it took, in
    bytes, 0 if unknown. `killed_for_memory`: the kernel's counters rose while it died."""

    killed_for_memory: bool
    peak: int
    used: int
    total: int
    was_nearly_full: bool


class MemoryWatch:
    """Samples memory while the process `pid` runs, to say what its death may have come from.

    The kernel counts a kill when it decides on it; the process is gone, and this process notified,
    a little later. A sample from in between must not become the baseline, so the counters are
    compared over WINDOW_SECONDS."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.folder = _cgroup_folder(pid)
        # Of every group that it was seen in: a process that was killed and not yet waited for
        # seems to be in the root group.
        self.folders = {self.folder}
        self.samples: deque[tuple[float, Memory]] = deque()
        self.look()

    @property
    def last(self) -> Memory:
        return self.samples[-1][1]

    def look(self) -> None:
        """Take a sample."""
        now = time.monotonic()
        # A process that has ended is in no group any more; its last one counts.
        if (PROC / str(self.pid)).exists():
            self.folder = _cgroup_folder(self.pid)
            self.folders.add(self.folder)

        self.samples.append((now, memory_read(self.folder)))

        # Keep one sample from before the window: the baseline.
        while len(self.samples) > 1 and self.samples[1][0] <= now - WINDOW_SECONDS:
            self.samples.popleft()

    def death(self, peak: int) -> Death:
        """To be called once the process has ended. `peak`: its largest resident set in bytes."""
        memories = [memory for _, memory in self.samples]
        fullest = max(memories, key=lambda memory: memory.used)
        # The earliest value of each counter.
        before: dict[str, int] = {}
        for memory in memories:
            before = memory.oom_kills | before

        self.look()
        after: dict[str, int] = {}
        for folder in self.folders:
            after |= memory_read(folder).oom_kills

        new_kills = [name for name in after if name in before and after[name] > before[name]]

        return Death(
            killed_for_memory=bool(new_kills),
            peak=peak,
            used=fullest.used,
            total=fullest.total,
            was_nearly_full=fullest.is_nearly_full,
        )


def memory_read(folder: Path) -> Memory:
    """The state of memory now, of the control group at `folder` and of the machine."""
    meminfo = _table(PROC / "meminfo")
    total = meminfo.get("MemTotal", 0) * 1024
    available = meminfo.get("MemAvailable", 0) * 1024
    used = total - available

    limit = _number(folder, "memory.max", "memory.limit_in_bytes")
    if limit is not None and 0 < limit < total:
        total = limit
        used = _number(folder, "memory.current", "memory.usage_in_bytes") or 0

    counters = {
        PROC / "vmstat": "machine",
        folder / "memory.events": str(folder),
        folder / "memory.oom_control": str(folder),
    }
    oom_kills = {}

    for path, name in counters.items():
        count = _table(path).get("oom_kill")
        if count is not None:
            oom_kills[name] = count

    return Memory(used, total, oom_kills)


def memory_available() -> int:
    """Bytes that a process of this one's control group may still take. Cached files, which the
    kernel gives up where memory is needed, count as free. A large number where nothing is known."""
    meminfo = _table(PROC / "meminfo")
    available = meminfo.get("MemAvailable", 1 << 50) * 1024

    folder = _cgroup_folder(os.getpid())
    limit = _number(folder, "memory.max", "memory.limit_in_bytes")
    used = _number(folder, "memory.current", "memory.usage_in_bytes")
    if limit is None or used is None:
        return available

    stat = _table(folder / "memory.stat")
    cached = stat.get("inactive_file", 0) + stat.get("active_file", 0)
    return min(available, limit - used + cached)


def _cgroup_folder(pid: int) -> Path:
    """The folder of the process's memory control group, or of the container's where its own is not
    visible inside."""
    try:
        lines = (PROC / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        lines = []

    root = CGROUPS
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            root = CGROUPS / "memory"
        elif controllers:
            continue

        folder = root / path.lstrip("/")
        if (folder / "memory.events").is_file() or (folder / "memory.oom_control").is_file():
            return folder

    version_1 = CGROUPS / "memory"
    return version_1 if version_1.is_dir() else CGROUPS


def _table(path: Path) -> dict[str, int]:
    """Lines of "name number" or "name: number kB"."""
    try:
        text = path.read_text()
    except OSError:
        return {}

    lines = re.findall(r"^(\w+):?\s+(\d+)", text, re.MULTILINE)
    return {name: int(number) for name, number in lines}


def _number(folder: Path, *names: str) -> int | None:
    for name in names:
        try:
            return int((folder / name).read_text())
        except (OSError, ValueError):
            continue

    return None

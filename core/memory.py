"""What can be measured of a process that was killed: whether the kernel ended something for want of
memory just then, how much memory the process took, and how full memory was.

Linux counts the processes that it kills for memory, for each control group and for the whole
machine (Documentation/admin-guide/cgroup-v2.rst, memory.events; /proc/vmstat, oom_kill). Elsewhere
nothing is known."""

from __future__ import annotations

import re
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
# Memory as full as this leaves no room for the next step.
NEARLY_FULL = 0.95
# How long before word of a death what it came from may lie: a large process takes seconds to leave.
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
    """Looks at memory again and again while the process `pid` runs, and says what its death may
    have come from.

    The kernel counts a kill when it decides on it; the process is gone, and word of it here, a
    little later. A look in between must not become what the counters are compared with, so they are
    compared over WINDOW_SECONDS."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.folder = _cgroup_folder(pid)
        self.looks: deque[tuple[float, Memory]] = deque()
        self.look()

    @property
    def last(self) -> Memory:
        return self.looks[-1][1]

    def look(self) -> None:
        now = time.monotonic()
        # A process that has ended is in no group any more; the one that it was in counts.
        if (PROC / str(self.pid)).exists():
            self.folder = _cgroup_folder(self.pid)

        self.looks.append((now, memory_read(self.folder)))

        # The newest of those that are older than the window stays: what was before it.
        while len(self.looks) > 1 and self.looks[1][0] <= now - WINDOW_SECONDS:
            self.looks.popleft()

    def death(self, peak: int) -> Death:
        """To be called once the process has ended. `peak`: its largest resident set in bytes."""
        fullest = max((memory for _, memory in self.looks), key=lambda memory: memory.used)
        before = self.looks[0][1].oom_kills
        self.look()
        after = self.last.oom_kills
        rose = any(count > before[name] for name, count in after.items() if name in before)

        return Death(
            killed_for_memory=rose,
            peak=peak,
            used=fullest.used,
            total=fullest.total,
            was_nearly_full=fullest.is_nearly_full,
        )


def memory_read(folder: Path) -> Memory:
    """As it is now, for the control group at `folder` and for the machine."""
    meminfo = _table(PROC / "meminfo")
    total = meminfo.get("MemTotal", 0) * 1024
    used = total - meminfo.get("MemAvailable", 0) * 1024
    kills = {}

    if (count := _table(PROC / "vmstat").get("oom_kill")) is not None:
        kills["machine"] = count

    limit = _number(folder, "memory.max", "memory.limit_in_bytes")
    if limit is not None and 0 < limit < total:
        total = limit
        used = _number(folder, "memory.current", "memory.usage_in_bytes") or 0

    for name in ("memory.events", "memory.oom_control"):
        if (count := _table(folder / name).get("oom_kill")) is not None:
            kills[str(folder)] = count

    return Memory(used, total, kills)


def _cgroup_folder(pid: int) -> Path:
    """The folder of the process's memory control group; of the container's where its own is not
    visible in here."""
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

    return CGROUPS / "memory" if (CGROUPS / "memory").is_dir() else CGROUPS


def _table(path: Path) -> dict[str, int]:
    """Lines of "name number" or "name: number kB"."""
    try:
        text = path.read_text()
    except OSError:
        return {}

    return {
        name: int(number) for name, number in re.findall(r"^(\w+):?\s+(\d+)", text, re.MULTILINE)
    }


def _number(folder: Path, *names: str) -> int | None:
    for name in names:
        try:
            return int((folder / name).read_text())
        except (OSError, ValueError):
            continue

    return None

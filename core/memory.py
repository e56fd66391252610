"""What can be measured of a process that was killed: whether the kernel ended something for want of memory just then,
how much memory the process took, and how full memory was.

Linux counts the processes that it kills for memory, for each control group and for the whole machine
(Documentation/admin-guide/cgroup-v2.rst, memory.events; /proc/vmstat, oom_kill). Elsewhere nothing is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
# Memory as full as this leaves no room for the next step.
NEARLY_FULL = 0.95


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
    """What was measured around the death of a process. `peak`: the most memory that it took, in bytes, 0 if unknown.
    `killed_for_memory`: the kernel's counters rose while it died."""

    killed_for_memory: bool
    peak: int
    used: int
    total: int
    was_nearly_full: bool


class MemoryWatch:
    """Looks at memory again and again while the process `pid` runs, and says what its death may have come from."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.last = memory_read(pid)

    def look(self) -> None:
        self.last = memory_read(self.pid)

    def death(self, peak: int) -> Death:
        """To be called once the process has ended. `peak`: its largest resident set in bytes."""
        after = memory_read(self.pid)
        before = self.last.oom_kills
        rose = any(count > before[name] for name, count in after.oom_kills.items() if name in before)
        return Death(
            killed_for_memory=rose,
            peak=peak,
            used=self.last.used,
            total=self.last.total,
            was_nearly_full=self.last.is_nearly_full,
        )


def memory_read(pid: int) -> Memory:
    """As it is now, for the control group of `pid` and for the machine."""
    meminfo = _table(PROC / "meminfo")
    total = meminfo.get("MemTotal", 0) * 1024
    used = total - meminfo.get("MemAvailable", 0) * 1024
    kills = {}
    if (count := _table(PROC / "vmstat").get("oom_kill")) is not None:
        kills["machine"] = count

    folder = _cgroup_folder(pid)
    limit = _number(folder, "memory.max", "memory.limit_in_bytes")
    if limit is not None and 0 < limit < total:
        total = limit
        used = _number(folder, "memory.current", "memory.usage_in_bytes") or 0
    for name in ("memory.events", "memory.oom_control"):
        if (count := _table(folder / name).get("oom_kill")) is not None:
            kills[str(folder)] = count
    return Memory(used, total, kills)


def _cgroup_folder(pid: int) -> Path:
    """The folder of the process's memory control group; of the container's where its own is not visible in here."""
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
    return {name: int(number) for name, number in re.findall(r"^(\w+):?\s+(\d+)", text, re.MULTILINE)}


def _number(folder: Path, *names: str) -> int | None:
    for name in names:
        try:
            return int((folder / name).read_text())
        except (OSError, ValueError):
            continue
    return None

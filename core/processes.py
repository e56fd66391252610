"""Processes of this machine by a mark that is not reused: pid and start time."""

from __future__ import annotations

import os
from pathlib import Path


def process_mark(pid: int) -> str:
    """ "pid:start" where /proc tells the start (clock ticks since boot), "pid" elsewhere, "" for a process that is gone.

    The pid alone is given out again, after a reboot at once: it would keep the dead alive.
    """
    try:
        # The second field is the command in brackets and may hold anything, so count from its end.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return "" if Path("/proc/self/stat").exists() else _plain_mark(pid)
    except OSError:
        return ""
    return "" if fields[0] == "Z" else f"{pid}:{fields[19]}"


def _plain_mark(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return str(pid)


def process_is_alive(mark: str) -> bool:
    pid = mark.partition(":")[0]
    return pid.isdigit() and process_mark(int(pid)) == mark

"""Processes of this machine: a mark that is not reused (pid and start time), and ends that are bound together."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

SUPERVISED = "DEEPEXTENSION_SUPERVISED"
JUDGE_KEY = "DEEPEXTENSION_JUDGE_KEY"
SECRETS = ("SECRET_KEY", "DATABASE_URL", "REDIS_URL", "DEEPEXTENSION_ADMIN_PASSWORD", "HF_TOKEN", JUDGE_KEY)
PR_SET_PDEATHSIG = 1


def process_mark(pid: int) -> str:
    """ "pid:start" where /proc tells the start (clock ticks since boot), "pid" elsewhere, "" for one that is gone.

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


def die_with_parent(parent: int, sign: signal.Signals) -> None:
    """Have the kernel send `sign` to this process when `parent` ends; end now if it is gone already.

    Without it a killed worker leaves its train running, an orphan beside its own retry. Linux only; elsewhere the
    attempt number alone keeps an orphan from writing.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(sign), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def die_with_supervisor() -> None:
    """For the platform's own processes: none outlives the supervisor that `serve` started, however that ended."""
    if os.environ.get(SUPERVISED):
        die_with_parent(os.getppid(), signal.SIGTERM)


def environment_without_secrets(*, keep: tuple[str, ...] = ()) -> dict[str, str]:
    """For a program that reads strangers' files: the platform's secrets are none of their business."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS or name in keep}

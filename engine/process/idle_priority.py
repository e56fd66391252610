"""Idle priority: compute while nothing else wants the processor, beside a train above all.

The threads of a train meet after every operation, thousands of times a step, and sleep until the last
has come. A niced thread is not preempted when one of them wakes: it keeps its processor for
milliseconds, and the others wait for that. On two processors, one such thread at nice 8 or 19 made a
step 2 to 3 times as long; in the scheduling class SCHED_IDLE, whose threads give way at once, a
fifth longer. See sched(7)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

LOWEST = 19


def use_idle_priority(thread: int = 0) -> None:
    """For that thread of this process, 0 for the calling one, and all that it starts from now on. For
    good: only the system's administrator can take it back."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.setpriority(os.PRIO_PROCESS, thread, LOWEST)


def all_threads_use_idle_priority() -> None:
    """For all threads that this process has now, and all that it will have."""
    tasks = Path("/proc/self/task")
    threads = [int(path.name) for path in tasks.iterdir()] if tasks.exists() else [0]
    for thread in threads:
        # It may have ended meanwhile.
        with suppress(ProcessLookupError):
            use_idle_priority(thread)

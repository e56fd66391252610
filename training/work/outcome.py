"""How a train ended: a table over the engine's exit status and its last event."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field, replace
from typing import Any

from core.memory import Death
from core.store import disk_is_full
from core.templatetags.display import size
from core.text import storable
from engine.contract.rundir import (
    EVENTS,
    EXIT_DISK_FULL,
    EXIT_FINISHED,
    EXIT_STOPPED,
    LOG,
    MODEL,
)
from engine.messages.failures import DISK_FULL, RANK_KILLED, failure_from_text
from training.models import TrainRun

Status = TrainRun.Status
WORKER_LOST = "worker_lost"
BAD_CHECKPOINT = "bad_checkpoint"
# What engine.cluster says of a cluster that went away under a train, or ended its job.
CLUSTER_LOST = ("cluster_away", "cluster_ended")
MEMORY_ADVICE = (
    "Lower the batch size or max tokens, and raise gradient accumulation to keep the "
    "effective batch."
)


@dataclass(frozen=True)
class Outcome:
    status: TrainRun.Status
    values: dict[str, Any] = field(default_factory=dict)
    # It was ended by a shutdown of the platform in good order.
    by_shutdown: bool = False


def failure(code: str, message: str, advice: str) -> Outcome:
    return Outcome(Status.FAILED, {"error_code": code, "error": message, "error_advice": advice})


def worker_lost(reason: str = "The worker that ran this train is gone.") -> Outcome:
    return failure(
        WORKER_LOST,
        reason,
        "Nothing is wrong with your settings. What was logged and saved until then is kept: resume "
        "the train, or copy it to begin anew.",
    )


def shut_down() -> Outcome:
    return replace(
        worker_lost("The platform was shut down while this train ran."), by_shutdown=True
    )


def record_unreadable(error: Exception) -> Outcome:
    return failure(
        "bad_record",
        "The worker that ran this train is gone, and what the train wrote about itself cannot be "
        f"read: {storable(str(error)[:200])}.",
        f"What was stored until then is kept. {EVENTS} in its folder and the platform's log say "
        "more; show them to your operator, and copy the train to start again.",
    )


def killed(death: Death | None, ranks: int = 1) -> Outcome:
    """The engine was ended by SIGKILL, and not by its supervisor: reported with what was measured,
    without guesses."""
    if death is None or not death.total:
        return failure(
            "killed",
            "Something ended this train with signal 9 (SIGKILL).",
            "How much memory it took was not measured. Start it again; if it recurs, ask your "
            "operator.",
        )

    figures = f"Just before, {size(death.used)} of {size(death.total)} of memory were in use"
    # Of several ranks only the largest process was measured.
    figures += f"; the train took {size(death.peak)} at most." if ranks == 1 else "."

    if death.killed_for_memory:
        return failure(
            "out_of_memory",
            f"Memory ran out, and the system ended this train. {figures}",
            MEMORY_ADVICE,
        )

    if death.was_nearly_full:
        return failure(
            "out_of_memory",
            "Something ended this train with signal 9 (SIGKILL) while memory was nearly full. "
            f"{figures}",
            MEMORY_ADVICE,
        )

    return failure(
        "killed",
        f"Something ended this train with signal 9 (SIGKILL). {figures}",
        "Memory had not run out, so the cause is outside the train: somebody may have ended the "
        "process by hand, or a limit of the machine did. Start it again; if it recurs, ask your "
        "operator.",
    )


def decide(
    run: TrainRun, exit_status: int | None, *, by_us: bool = False, death: Death | None = None
) -> Outcome:
    """The outcome of a train.

    exit_status: of the engine, negative for a signal, None where it is not known any more.
    by_us: whether the signal that ended the engine was the supervisor's.
    death: what was measured when the engine ended.
    """
    last = run.outcome.get("type")
    if last == "failed":
        is_for_memory = death and (death.killed_for_memory or death.was_nearly_full)
        if run.outcome.get("code") == RANK_KILLED and is_for_memory:
            return killed(death, run.width)

        return failure(
            str(run.outcome.get("code", "unknown"))[:40],
            str(run.outcome.get("message", "The train failed.")),
            str(run.outcome.get("advice", "")),
        )

    if last == "finished" and exit_status in (EXIT_FINISHED, None):
        if not (run.directory / MODEL).is_dir():
            return failure(
                "no_model",
                "The engine said it finished but left no model.",
                "Copy the train and try again.",
            )

        return Outcome(Status.FINISHED)

    if last == "stopped" and exit_status in (EXIT_STOPPED, None):
        return Outcome(Status.STOPPED)
    if by_us:
        return Outcome(Status.STOPPED)
    if exit_status is None:
        return worker_lost()
    if exit_status == -signal.SIGKILL:
        return killed(death, run.width)

    if exit_status < 0:
        # Code in other languages writes why it gives up, and ends the process.
        if (known := failure_from_text(last_lines(run))) is not None:
            return failure(known.code, known.message, known.advice)

        name = signal.Signals(-exit_status).name
        return failure(
            "crashed",
            f"The engine crashed ({name}).",
            "See the end of the Train Log for what it did last.",
        )

    if exit_status == EXIT_DISK_FULL or disk_is_full():
        return failure(DISK_FULL.code, DISK_FULL.message, DISK_FULL.advice)
    if (known := failure_from_text(last_lines(run))) is not None:
        return failure(known.code, known.message, known.advice)

    return failure(
        "unknown",
        f"The engine ended with exit code {exit_status} and did not say why.",
        "The cause is unknown; the last lines of the Train Log may tell." + last_lines(run),
    )


def last_lines(run: TrainRun, count: int = 3) -> str:
    """The end of the log as one text, for an unknown cause."""
    try:
        with (run.directory / LOG).open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 4096))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""

    lines = text.strip().splitlines()
    return "".join("\n" + line for line in lines[-count:])

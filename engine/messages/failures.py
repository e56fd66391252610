"""Why a train failed, in words a person can act on. No training library is imported: their errors
are recognised by name."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace

from pydantic import ValidationError

from engine.contract.rundir import SpecError
from engine.models.inspect import ModelProblem
from engine.rows.file_type import FileProblem


class TrainError(Exception):
    """A failure whose cause is known where it is raised. code: for the database and the API;
    message and advice: sentences for people."""

    def __init__(self, code: str, message: str, advice: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.advice = advice


class Stopped(Exception):
    """A stop was asked for, and nothing is lost by stopping at once."""


@dataclass(frozen=True)
class Failure:
    code: str
    message: str
    advice: str


OUT_OF_MEMORY = Failure(
    "out_of_memory",
    "The machine ran out of memory.",
    "Lower the batch size and raise gradient accumulation by the same factor: the result stays the "
    "same. Lowering Max tokens, or turning gradient checkpointing on, helps too.",
)
GPU_OUT_OF_MEMORY = replace(OUT_OF_MEMORY, message="The GPU ran out of memory.")
DISK_FULL = Failure(
    "disk_full",
    "The disk is full.",
    "Free some space, or keep fewer checkpoints. Checkpoints saved before are intact.",
)
# Of a train on several devices: one of its processes was ended from outside.
RANK_KILLED = "rank_killed"
# The last is oneDNN's, whose kernels say nothing else when they run out of memory.
MEMORY_WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "could not create a primitive",
)
# Raised with a message that says the cause: a traceback adds nothing.
KNOWN_FAILURES = (TrainError, SpecError, ValidationError, ModelProblem, FileProblem)
# The last but one are PyTorch's, the last is Rust's, in which safetensors and tokenizers are
# written.
DISK_WORDS = (
    "no space left on device",
    "disk quota exceeded",
    "database or disk is full",
    "file write failed",
    "unexpected pos",
    "kind: storagefull",
)


def explain(error: BaseException) -> Failure:
    """The failure behind an exception; code "unknown" with its last line where the cause is not
    known."""
    if not isinstance(error, TrainError) and is_disk_full(error):
        return DISK_FULL

    return _known(error) or failure_from_text(str(error)) or _unknown(error)


def is_disk_full(error: BaseException) -> bool:
    """Whether this error, or one that it was raised from, comes from a full disk: libraries wrap it
    in errors of their own, which would name the wrong cause."""
    cause: BaseException | None = error
    seen: set[int] = set()

    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if _has_any(str(cause).lower(), DISK_WORDS):
            return True

        cause = cause.__cause__ or cause.__context__

    return False


def _known(error: BaseException) -> Failure | None:
    """The failure behind an exception of a known class."""
    if isinstance(error, TrainError):
        return Failure(error.code, error.message, error.advice)

    if isinstance(error, SpecError):
        return Failure(
            "bad_spec",
            str(error),
            "Copy the train and start it again; its description cannot be read.",
        )

    if isinstance(error, ValidationError):
        return Failure(
            "bad_parameters", _first_problem(error), "Copy the train and correct this field."
        )

    if isinstance(error, ModelProblem):
        return Failure(
            "bad_model", f"The base model cannot be used: {error}", "Choose another base model."
        )

    if type(error).__name__ == "SafetensorError":
        return Failure(
            "bad_model",
            f"A file of weights cannot be read: {error}",
            "It is damaged or cut. Add that model again.",
        )

    if isinstance(error, FileProblem):
        return Failure(
            "bad_data", f"The dataset cannot be read: {error}", "Upload the dataset again."
        )

    if type(error).__name__ == "OutOfMemoryError":
        return GPU_OUT_OF_MEMORY
    if isinstance(error, MemoryError):
        return OUT_OF_MEMORY

    if isinstance(error, PermissionError):
        return Failure(
            "no_permission", f"{error.filename} may not be read or written.", "Ask your operator."
        )

    if isinstance(error, FileNotFoundError):
        return Failure(
            "file_gone",
            f"{error.filename} is gone.",
            "The base model or dataset was removed; choose another one.",
        )

    return None


def failure_from_text(output: str) -> Failure | None:
    """The failure that an error's text, or the end of a log, tells of: libraries in other languages
    raise RuntimeError and the like, or print why they end the process."""
    text = output.lower()
    if "cuda" in text and _has_any(text, ("out of memory", "alloc_failed")):
        return GPU_OUT_OF_MEMORY
    if _has_any(text, MEMORY_WORDS):
        return OUT_OF_MEMORY
    if _has_any(text, DISK_WORDS):
        return DISK_FULL

    if "device-side assert" in text or "cuda error" in text:
        return Failure(
            "gpu_error",
            f"The GPU failed: {_last(output)}",
            "Start the train again. If it recurs, ask your operator.",
        )

    return None


def _has_any(text: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in text for phrase in phrases)


def _unknown(error: BaseException) -> Failure:
    return Failure(
        "unknown",
        f"The train failed: {last_line(error)}",
        "The cause is unknown. The end of the Train Log shows where it happened.",
    )


def last_line(error: BaseException) -> str:
    """The class of an exception and the last line of its text."""
    last = _last(str(error))
    return f"{type(error).__name__}: {last}" if last else type(error).__name__


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""


def _first_problem(error: ValidationError) -> str:
    """The first of pydantic's errors, with the field that it is about."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if not where:
        # A rule over several fields names the one to show it beside.
        where = str(problem.get("ctx", {}).get("field", "parameters"))

    return f"{where}: {problem['msg']}"

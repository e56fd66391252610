"""Why a train failed, in words a person can act on. No training library is imported: their errors are told by name."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from pydantic import ValidationError

from engine.inspect_model import ModelProblem
from engine.rundir import SpecError
from engine.sniff import FileProblem


class TrainError(Exception):
    """A failure whose cause is known where it is raised."""

    def __init__(self, code: str, message: str, advice: str) -> None:
        super().__init__(message)
        self.code, self.message, self.advice = code, message, advice


class Stopped(Exception):
    """Somebody asked for a stop while nothing was under way that ends by itself soon."""


@dataclass(frozen=True)
class Failure:
    code: str
    message: str
    advice: str


OUT_OF_MEMORY = Failure(
    "out_of_memory",
    "The machine ran out of memory.",
    "Lower the batch size and raise gradient accumulation by the same factor: the result stays the same. "
    "Fewer max tokens or gradient checkpointing help too.",
)
DISK_FULL = Failure(
    "disk_full",
    "The disk is full.",
    "Free some space, or keep fewer checkpoints. Checkpoints written before are whole.",
)
MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
DISK_WORDS = ("no space left on device", "disk quota exceeded", "file write failed", "unexpected pos")


def explain(error: BaseException) -> Failure:
    """The failure behind an exception; code "unknown" with its last line where nobody knows."""
    return _known(error) or _by_words(error) or _unknown(error)


def _known(error: BaseException) -> Failure | None:
    """By the kind of exception."""
    if isinstance(error, TrainError):
        return Failure(error.code, error.message, error.advice)
    if isinstance(error, SpecError):
        return Failure("bad_spec", str(error), "Copy the train and start it again; its description cannot be read.")
    if isinstance(error, ValidationError):
        return Failure("bad_parameters", _first_problem(error), "Copy the train and correct this field.")
    if isinstance(error, ModelProblem):
        return Failure("bad_model", f"The base model cannot be used: {error}", "Choose another base model.")
    if isinstance(error, FileProblem):
        return Failure("bad_data", f"The dataset cannot be read: {error}", "Upload the dataset again.")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL
    if isinstance(error, PermissionError):
        return Failure("no_permission", f"{error.filename} may not be read or written.", "Ask your operator.")
    if isinstance(error, FileNotFoundError):
        return Failure(
            "file_gone", f"{error.filename} is gone.", "The base model or dataset was removed; choose another one."
        )
    return None


def _by_words(error: BaseException) -> Failure | None:
    """Libraries in other languages raise RuntimeError and the like, and say the cause in the text only."""
    text = str(error).lower()
    if any(words in text for words in MEMORY_WORDS):
        return OUT_OF_MEMORY
    if any(words in text for words in DISK_WORDS):
        return DISK_FULL
    if "device-side assert" in text or "cuda error" in text:
        return Failure(
            "gpu_error",
            f"The GPU failed: {last_line(error)}",
            "Start the train again. If it recurs, ask your operator.",
        )
    return None


def _unknown(error: BaseException) -> Failure:
    return Failure(
        "unknown",
        f"The train failed: {last_line(error)}",
        "The cause is not one that we know. The end of the Train Log shows where it happened.",
    )


def last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:500]}" if lines else type(error).__name__


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or str(problem.get("ctx", {}).get("field", "parameters"))
    return f"{where}: {problem['msg']}"

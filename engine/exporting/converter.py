"""llama.cpp's own converter from transformers' folders, in a process of its own."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from engine.exporting.request import OnProgress
from engine.loading.architecture import Refused
from engine.models.llama_cpp import CONVERTER, converter_missing
from engine.process.isolation import die_with_parent

# Runs one of the converter's own programs.
PROGRAM = Path(__file__).parent / "llama_cpp_program.py"
# What the converter sees of the environment.
ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "OMP_NUM_THREADS", "LD_LIBRARY_PATH")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
# Lines of its output that are kept for the reason of a failure.
LINES_KEPT = 40
# How Python, C++ and PyTorch say that an allocation was refused.
MEMORY_SIGNS = ("MemoryError", "bad_alloc", "allocate memory")

UNKNOWN_TOKENIZER = (
    "llama.cpp does not know how this model's tokenizer splits a text, so the file would turn text "
    "into other tokens. Export as Safetensors, or train on a base model whose tokenizer llama.cpp "
    "knows."
)
UNKNOWN_ARCHITECTURE = (
    "llama.cpp does not know this architecture ({reason}). Export as Safetensors, or train on "
    "another base model, such as Llama, Qwen, Mistral or Gemma."
)


class OutOfMemory(Refused):
    """It needed more than there was, which says nothing about the model."""


def convert(program: str, arguments: list[str], on_progress: OnProgress) -> None:
    """Run one of the converter's programs. Raises Refused with its reason, and OSError with ENOSPC
    where the disk is full."""
    if reason := converter_missing():
        raise Refused(reason)

    with tempfile.TemporaryDirectory() as home:
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        environment |= OFFLINE | {"HOME": home}
        process = subprocess.Popen(  # noqa: S603 - a list, no shell
            [sys.executable, "-P", str(PROGRAM), str(CONVERTER), program, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Whatever it prints; and its progress bar ends its lines with \r.
            text=True,
            encoding="utf-8",
            errors="replace",
            preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGKILL),
        )
        try:
            lines = _follow(process, on_progress)
        finally:
            process.kill()
            process.wait()

    if process.returncode:
        raise _failure(lines, process.returncode)


def _follow(process: subprocess.Popen[str], on_progress: OnProgress) -> list[str]:
    """The last lines of its output."""
    assert process.stderr is not None
    lines: list[str] = []

    for line in process.stderr:
        if found := re.match(r"Writing:\s+(\d+)%", line):
            on_progress(int(found[1]) / 100)
        elif line.strip():
            lines = [*lines, line.strip()][-LINES_KEPT:]

    process.wait()
    return lines


def _failure(lines: list[str], code: int) -> Exception:
    text = "\n".join(lines)
    last = lines[-1][:300] if lines else f"exit code {code}"

    if "No space left on device" in text:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if "pre-tokenizer was not recognized" in text:
        return Refused(UNKNOWN_TOKENIZER)
    if found := re.search(r"Model (\S+) is not supported|Architecture '(\S+)' not supported", text):
        return Refused(UNKNOWN_ARCHITECTURE.format(reason=found[1] or found[2]))
    if found := re.search(r"Can not map tensor '([^']+)'", text):
        return Refused(UNKNOWN_ARCHITECTURE.format(reason=f"it has no place for {found[1]}"))
    if code == -signal.SIGKILL or any(sign in text for sign in MEMORY_SIGNS):
        return OutOfMemory("llama.cpp's converter ran out of memory.")

    return Refused(f"llama.cpp's converter refuses this model: {last}")

"""Models created in a running Ollama, at the address that the operator has set."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from django.conf import settings

from core.errors import UserError
from core.programs import OnReport, Report, program_run

MEMORY_BYTES = 2 << 30
# Nothing takes longer that goes well: 100 GB at 30 MB a second.
SECONDS = 3600.0
NAME = re.compile(r"(?:[a-z0-9][\w-]{0,79}/)?[a-z0-9][\w.-]{0,79}(?::[\w.-]{1,80})?", re.ASCII)


def ollama_is_set_up() -> bool:
    return bool(settings.OLLAMA_URL)


def ollama_name_clean(text: str) -> str:
    """A name as Ollama takes it, with namespace and tag where it has them. Raises UserError for the
    field "name"."""
    name = text.strip()
    if not NAME.fullmatch(name):
        raise UserError(
            {"name": ["Write a name such as my-model or my-model:v2: letters, digits, - _ and ."]}
        )

    return name


def ollama_create(
    folder: Path,
    name: str,
    *,
    replace: bool = False,
    again: bool = False,
    on_report: OnReport = lambda report: None,
    on_tick: Callable[[], None] = lambda: None,
) -> Report:
    """Create the model `name` from `folder`, an export for Ollama; returns {"model"}.

    replace: whether a model of that name is overwritten. again: whether its creation has begun
    before, so that a model of that name may be this one.
    on_report gets {"bytes"} of the model's file, {"begun": true} before Ollama is given anything,
    {"sent"} while the file is uploaded, and {"phase"}. What the callbacks raise ends the work.
    Raises ProgramProblem."""
    options = [*(["--replace"] if replace else []), *(["--again"] if again else [])]
    arguments = [str(folder), name, *options]

    return program_run(
        "engine.programs.ollama",
        *arguments,
        seconds=SECONDS,
        memory_bytes=MEMORY_BYTES,
        too_long="Ollama took longer than an hour. Try again later.",
        work="Creating the model in Ollama",
        environment={"DEEPEXTENSION_OLLAMA_URL": settings.OLLAMA_URL},
        on_report=on_report,
        on_tick=on_tick,
    )

"""Local folders that may become base models: those below the roots that the operator allows, and
nothing else.

A name is resolved when it is offered, when it is added and again when it is read, links included,
and every file is looked at after it was opened: between looking and opening a link can change."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from django.conf import settings

from core.errors import UserError
from engine.models.inspect import ModelProblem, config_read, kept_files

PIECE_BYTES = 8 * 2**20
UNREADABLE = "The folder cannot be read by the platform's user."


def inbox() -> Path:
    """Where people put models for which no other root is set."""
    folder = settings.HOME / "models-inbox"
    folder.mkdir(exist_ok=True, mode=0o700)
    return folder


def allowed_roots() -> list[Path]:
    return [inbox().resolve(), *settings.MODEL_ROOTS]


def folder_resolve(reference: str) -> Path:
    """The folder that `reference` names, below an allowed root. Raises UserError {"reference": …}.

    Nobody learns what lies elsewhere: whether it is there or not, the answer is the same."""
    roots = allowed_roots()
    names = ", ".join(map(str, roots))
    outside = UserError(
        {"reference": [f"Choose a folder below one of the allowed folders: {names}."]}
    )

    if not reference.startswith("/") or "\x00" in reference:
        raise outside

    try:
        folder = Path(reference).resolve()
        # A name that is too long for the file system is an OSError here.
        is_folder = folder.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise outside from error

    if not any(root in folder.parents for root in roots):
        raise outside
    if not is_folder:
        raise UserError({"reference": ["There is no such folder."]})

    return folder


def folder_check(folder: Path) -> None:
    """Refuse at once what needs no copying to be refused. Raises UserError {"reference": …}."""
    try:
        config_read(folder, may_be_packed=True)
        kept_files(folder)
    except ModelProblem as problem:
        raise UserError({"reference": [str(problem)]}) from problem
    except OSError as error:
        raise UserError({"reference": [UNREADABLE]}) from error


def folder_copy(folder: Path, target: Path, on_bytes: Callable[[int], None]) -> None:
    """Copy what belongs to the model into the new folder `target`; on_bytes is called with the
    number of bytes copied so far.

    A copy and no hard link: a file that is rewritten in place would change under every train that
    started from it. Where the file system can share blocks between files, the copy shares them and
    costs nothing. Raises ModelProblem for a file that leads out of the allowed roots."""
    target.mkdir()
    done = 0

    for name in kept_files(folder):
        source = _open_inside(folder / name)
        try:
            with (target / name).open("wb") as copy:
                for count in _copy(source, copy.fileno()):
                    done += count
                    on_bytes(done)
        finally:
            os.close(source)


def _open_inside(path: Path) -> int:
    """A descriptor of the regular file at `path`, which may be a link as long as it stays below an
    allowed root."""
    # Without waiting: a pipe under a model's name would hold the import for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    opened = Path(f"/proc/self/fd/{descriptor}").resolve()
    regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
    if not regular or not any(root in opened.parents for root in allowed_roots()):
        os.close(descriptor)
        raise ModelProblem(f"{path.name} leads out of the allowed folders.")

    return descriptor


def _copy(source: int, target: int) -> Iterator[int]:
    while True:
        try:
            count = os.copy_file_range(source, target, PIECE_BYTES)
        except OSError:
            # Across file systems older kernels refuse; the offsets stand where they were.
            count = os.write(target, os.read(source, PIECE_BYTES))

        if count == 0:
            return

        yield count

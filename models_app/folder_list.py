"""What lies below the allowed roots and looks like a model, so that nobody has to type a path.

Pages and the API ask for the list, and the folders are strangers': how many are looked at and for
how long is bounded, and what is known of a folder is remembered until one of its files changes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from core.errors import UserError
from engine.models.inspect import KEPT_FILES, kept_files
from models_app.folders import UNREADABLE, allowed_roots, folder_check, folder_resolve

DEEPEST = 3
MOST_OFFERED = 200
# Entries of folders that one look takes in, with all that are no models.
MOST_LOOKED_AT = 20_000
# New folders are read for so long; what is left is read the next time.
READ_SECONDS = 3.0
REMEMBERED = 2_000

NOT_YET = "Not looked at yet: there are many new folders. Open this page again in a moment."

# All that a choice depends on; "" is the folder itself.
READ_FILES = ("", *KEPT_FILES, "adapter_config.json", "model.safetensors.index.json")
# (name, size, changed at) of each of these.
State = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Choice:
    """A folder with a config.json below a root. `obstacle`: why it cannot be added, or nothing."""

    path: str
    name: str
    size_bytes: int
    obstacle: str


_known: dict[tuple[Path, Path], tuple[State, Choice]] = {}
# One reader at a time: the others find what it has read.
_reading = threading.Lock()


def folders_offered() -> list[Choice]:
    """At most MOST_OFFERED folders that look like models, those that cannot be added with the
    obstacle."""
    choices: list[Choice] = []
    with _reading:
        deadline = time.monotonic() + READ_SECONDS
        for root in allowed_roots():
            for folder in _candidates(root):
                if len(choices) >= MOST_OFFERED:
                    return choices

                may_read = time.monotonic() < deadline
                choices.append(_choice(root, folder, may_read=may_read))

    return choices


def _choice(root: Path, folder: Path, *, may_read: bool) -> Choice:
    """What is known of the folder, unless it changed since; else what is read now."""
    name = str(folder.relative_to(root))
    state = _state(folder)
    known_state, known_choice = _known.get((root, folder), (None, None))
    if known_choice is not None and known_state == state:
        return known_choice

    if not may_read:
        return Choice(str(folder), name, 0, NOT_YET)

    choice = _read(folder, name)
    if len(_known) >= REMEMBERED:
        _known.clear()

    _known[root, folder] = (state, choice)
    return choice


def _state(folder: Path) -> State:
    """What changes when the folder does: its own times, and those of the files that are read."""
    state = []
    for name in READ_FILES:
        try:
            facts = (folder / name).stat()
        except OSError:
            continue

        state.append((name, facts.st_size, facts.st_mtime_ns))

    return tuple(state)


def _read(folder: Path, name: str) -> Choice:
    obstacle, size = "", 0
    try:
        # By the resolved path: a link that leads out of the root is no offer.
        resolved = folder_resolve(str(folder))
        folder_check(resolved)
        size = sum((resolved / file).stat().st_size for file in kept_files(resolved))
    except UserError as error:
        obstacle = error.message
    except OSError:
        obstacle = UNREADABLE

    return Choice(str(folder), name, size, obstacle)


def _candidates(root: Path) -> Iterator[Path]:
    """Folders that look like models, in order of their names, level by level within each."""
    entries_left = MOST_LOOKED_AT
    waiting = [(root, DEEPEST)]

    while waiting and entries_left > 0:
        folder, depth = waiting.pop(0)
        entries = _entries(folder, entries_left)
        entries_left -= len(entries)

        for entry in entries:
            if entry.name.startswith(".") or not entry.is_dir():
                continue

            below = Path(entry.path)
            if _looks_like_model(below):
                yield below
            elif depth > 1:
                waiting.append((below, depth - 1))


def _looks_like_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file()


def _entries(folder: Path, most: int) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(islice(entries, most), key=lambda entry: entry.name)
    except OSError:
        return []

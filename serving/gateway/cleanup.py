"""Prepared files that nobody needs any more: of models that are gone, and of those that nobody has
asked for a long time."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from pathlib import Path

from serving.gateway.facts import keys_gone
from serving.gateway.prepared import serving_folder, unfinished_remove
from serving.targets import Placement

KEPT_SECONDS = 30 * 86_400
# How old a mark of use may be before it is written again.
MARK_SECONDS = 3600
USED = "used"
ADAPTER = "adapter-"

logger = logging.getLogger("deepextension.gateway")


def mark_used(placement: Placement) -> None:
    """Remember that the prepared files of `placement` are needed."""
    folder = serving_folder() / placement.base_key
    marks = [folder / USED]
    if placement.adapter_key:
        marks.append(folder / f"{ADAPTER}{placement.adapter_key}.gguf")

    for mark in marks:
        with contextlib.suppress(OSError):
            if mark.name == USED and not mark.exists():
                mark.touch(mode=0o600)
            if time.time() - mark.stat().st_atime > MARK_SECONDS:
                status = mark.stat()
                # The time of reading alone: the other one tells whether its contents changed.
                os.utime(mark, ns=(time.time_ns(), status.st_mtime_ns))


def leftovers_remove(loaded: set[str]) -> None:
    """loaded: keys that are in use now."""
    folder = serving_folder()
    if not folder.is_dir():
        return

    bases = {path.name: path for path in folder.iterdir() if path.is_dir()}
    gone = keys_gone(bases.keys() - loaded)

    for key, path in bases.items():
        if key not in loaded and (key in gone or _is_old(path / USED)):
            logger.info("removing the prepared files of %s", key)
            shutil.rmtree(path, ignore_errors=True)
        else:
            _adapters_remove(path, loaded)
            if key not in loaded:
                unfinished_remove(path)


def _adapters_remove(folder: Path, loaded: set[str]) -> None:
    files = {path.stem.removeprefix(ADAPTER): path for path in folder.glob(f"{ADAPTER}*.gguf")}
    gone = keys_gone(files.keys() - loaded)

    for key, path in files.items():
        if key not in loaded and (key in gone or _is_old(path)):
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)


def _is_old(mark: Path) -> bool:
    try:
        return time.time() - mark.stat().st_atime > KEPT_SECONDS
    except OSError:
        # Prepared, and never asked: the folder's own time says since when.
        with contextlib.suppress(OSError):
            return time.time() - mark.parent.stat().st_mtime > KEPT_SECONDS

        return False

"""train.log by byte offset: a page reads pieces, never the whole file."""

from __future__ import annotations

from dataclasses import dataclass

from engine.rundir import LOG
from training.models import TrainRun

PIECE_BYTES = 256 << 10


@dataclass(frozen=True)
class LogPiece:
    """`text` is what stands from `start` to `offset`; `size` is the whole file's, all in bytes."""

    start: int
    offset: int
    size: int
    text: str


def log_read(run: TrainRun, offset: int, limit: int = PIECE_BYTES) -> LogPiece:
    """At most `limit` bytes from `offset` on; a negative offset counts from the end.

    A piece ends after a whole line where it holds one, so that no character is cut in two.
    """
    limit = max(1, min(limit, PIECE_BYTES))
    try:
        with (run.directory / LOG).open("rb") as stream:
            size = stream.seek(0, 2)
            start = max(0, size + offset) if offset < 0 else min(offset, size)
            stream.seek(start)
            block = stream.read(limit)
    except FileNotFoundError:
        return LogPiece(0, 0, 0, "")
    if start + len(block) < size and (end := block.rfind(b"\n") + 1):
        block = block[:end]
    return LogPiece(start, start + len(block), size, block.decode(errors="replace"))

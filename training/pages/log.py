"""train.log by byte offset: a page reads pieces and searches stretches, never the whole file at
once."""

from __future__ import annotations

from dataclasses import dataclass

from engine.contract.rundir import LOG
from training.models import TrainRun

PIECE_BYTES = 256 << 10
SEARCH_BYTES = 64 << 20
BLOCK_BYTES = 4 << 20
MOST_MATCHES = 200
LONGEST_LINE = 300


@dataclass(frozen=True)
class LogPiece:
    """`text` is what stands from `start` to `offset`; `size` is the whole file's, all in bytes."""

    start: int
    offset: int
    size: int
    text: str


@dataclass(frozen=True)
class LogMatch:
    """A line that holds what was searched: where it begins, in bytes, and its text, cut around the
    match."""

    offset: int
    text: str


def log_search(
    run: TrainRun, words: str, offset: int = 0
) -> tuple[list[LogMatch], int | None, int]:
    """(matches, where to go on, size of the log) of a search from byte `offset` on, the case of
    Latin letters ignored.

    Ends after SEARCH_BYTES or MOST_MATCHES lines; None says that the end of the log was reached.
    """
    wanted = words.encode().lower()
    found: list[LogMatch] = []

    try:
        stream = (run.directory / LOG).open("rb")
    except FileNotFoundError:
        return found, None, 0

    with stream:
        size = stream.seek(0, 2)
        at, last = min(offset, size), min(size, offset + SEARCH_BYTES)
        while at < last:
            stream.seek(at)
            if not (block := stream.read(BLOCK_BYTES)):
                # Cut meanwhile: there is nothing more to search.
                return found, None, size

            # Whole lines, but for one that is longer than a block.
            if at + len(block) < size and (end := block.rfind(b"\n") + 1):
                block = block[:end]

            lower, place = block.lower(), 0
            while (hit := lower.find(wanted, place)) >= 0:
                begin, end = block.rfind(b"\n", 0, hit) + 1, block.find(b"\n", hit)
                end = len(block) if end < 0 else end
                cut = max(begin, hit - LONGEST_LINE // 3)
                text = block[cut : min(end, cut + LONGEST_LINE)].decode(errors="replace")
                found.append(LogMatch(at + begin, ("…" if cut > begin else "") + text))
                place = end + 1

                if len(found) == MOST_MATCHES:
                    return found, at + place, size

            at += len(block)

    return found, at if at < size else None, size


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

"""A job's log by byte offset: a page reads and searches it in pieces, never the whole file at once."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.models import Job

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


def log_search(job: Job, words: str, offset: int = 0) -> tuple[list[LogMatch], int | None, int]:
    """(matches, offset to continue from, size of the log) of a search from byte `offset` on, the
    case of Latin letters ignored.

    Ends after SEARCH_BYTES or MOST_MATCHES lines; None says that the end of the log was reached.
    """
    wanted = words.encode().lower()
    matches: list[LogMatch] = []

    try:
        stream = job.log_path.open("rb")
    except FileNotFoundError:
        return matches, None, 0

    with stream:
        size = stream.seek(0, 2)
        start = min(offset, size)
        last = min(size, offset + SEARCH_BYTES)

        while start < last:
            stream.seek(start)
            block = stream.read(BLOCK_BYTES)
            if not block:
                # Cut meanwhile: there is nothing more to search.
                return matches, None, size

            # A line that is longer than a block stays in pieces.
            if start + len(block) < size:
                block = _whole_lines(block)

            lower = block.lower()
            place = 0

            while (hit := lower.find(wanted, place)) >= 0:
                match, place = _match_make(block, hit, start)
                matches.append(match)
                if len(matches) == MOST_MATCHES:
                    return matches, start + place, size

            start += len(block)

    return matches, start if start < size else None, size


def _whole_lines(block: bytes) -> bytes:
    """The block up to its last line end; all of it where it holds none."""
    end = block.rfind(b"\n") + 1
    return block[:end] if end else block


def _match_make(block: bytes, hit: int, block_start: int) -> tuple[LogMatch, int]:
    """(the line around `hit`, where the next one begins in the block). A long line is cut around
    the match."""
    begin = block.rfind(b"\n", 0, hit) + 1
    end = block.find(b"\n", hit)
    if end < 0:
        end = len(block)

    cut = max(begin, hit - LONGEST_LINE // 3)
    text = block[cut : min(end, cut + LONGEST_LINE)].decode(errors="replace")
    if cut > begin:
        text = f"…{text}"

    return LogMatch(block_start + begin, text), end + 1


def log_read(job: Job, offset: int, limit: int = PIECE_BYTES) -> LogPiece:
    """At most `limit` bytes from `offset` on; a negative offset counts from the end.

    A piece ends after a whole line where it holds one, so that no character is cut in two.
    """
    limit = max(1, min(limit, PIECE_BYTES))
    try:
        with job.log_path.open("rb") as stream:
            size = stream.seek(0, 2)
            start = max(0, size + offset) if offset < 0 else min(offset, size)
            stream.seek(start)
            block = stream.read(limit)
    except FileNotFoundError:
        return LogPiece(0, 0, 0, "")

    if start + len(block) < size:
        block = _whole_lines(block)

    text = block.decode(errors="replace")
    return LogPiece(start, start + len(block), size, text)

"""The largest batch that a train meets, from the real lengths of the dataset's rows.

What a step needs is decided by its largest batch, not by a mean one and not by Max tokens: a dataset
of short rows never fills that."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

# A larger dataset is thinned to so many rows, evenly over its lengths.
MOST_ROWS = 20_000
# So many batches, and so many rows in them, are drawn at most: the largest of more is hardly larger,
# and the form asks at each key.
MOST_BATCHES = 20_000
MOST_DRAWN = 100_000
SEED = 20
# Of a text that is not tokenised: so many bytes of UTF-8 are a token, in English and Chinese alike,
# and a turn of a chat template has some tokens of its own.
BYTES_A_TOKEN = 4
TOKENS_OF_A_TURN = 6

# ((tokens, rows), …), the shortest first.
Histogram = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Batch:
    """`rows` that go through the model at once. `tokens`: all that are computed, padding included;
    `longest`: tokens of the longest row. `answer`: of which so many a row are written by the model,
    0 where the rows bring their answers."""

    rows: int
    tokens: int
    longest: int
    answer: int = 0

    @property
    def padded(self) -> int:
        """Tokens where each row is padded to the longest."""
        return self.rows * self.longest


def turn_tokens(text: str) -> int:
    """About how many tokens a turn of a conversation has; none where it has no words. The file of a
    tokenizer is a stranger's, which no process of a web server reads, so it is no count."""
    size = len(text.strip().encode())
    return -(-size // BYTES_A_TOKEN) + TOKENS_OF_A_TURN if size else 0


def lengthened(counts: Mapping[str, int], tokens: int) -> dict[str, int]:
    """{tokens: rows} with each row longer by `tokens`."""
    return {str(int(text) + tokens): rows for text, rows in counts.items()}


def histogram_of(counts: Mapping[str, int], limit: int) -> Histogram:
    """{tokens: rows} as it is stored, with rows of more than `limit` tokens cut there."""
    lengths: dict[int, int] = {}
    for text, rows in counts.items():
        tokens = max(1, min(int(text), limit))
        lengths[tokens] = lengths.get(tokens, 0) + int(rows)

    return tuple(sorted(lengths.items()))


def histogram_within(counts: Mapping[str, int], limit: int) -> Histogram:
    """The same, with longer rows left out in place of cut."""
    kept = {text: rows for text, rows in counts.items() if int(text) <= limit}
    return histogram_of(kept, limit)


def padded_batch(lengths: Histogram, rows: int, drawn: int) -> Batch:
    """The largest of the batches in which `drawn` rows are seen, where rows are padded to the longest
    of their batch: the one with the longest row."""
    longest = longest_of(lengths, drawn)
    return Batch(rows, rows * longest, longest)


def longest_of(lengths: Histogram, drawn: int) -> int:
    """The tokens of the longest row among `drawn` ones."""
    total = sum(count for _, count in lengths)
    if drawn >= total:
        return lengths[-1][0]

    # The mean place of the largest of n draws.
    place = total * drawn / (drawn + 1)
    passed = 0
    for tokens, count in lengths:
        passed += count
        if passed >= place:
            return tokens

    return lengths[-1][0]


def end_to_end_batch(lengths: Histogram, rows: int, batches: int) -> Batch:
    """The largest of `batches` random batches whose rows lie end to end, without padding."""
    return _largest_drawn(lengths, rows, min(batches, MOST_BATCHES, max(1, MOST_DRAWN // rows)))


@lru_cache(maxsize=256)
def _largest_drawn(lengths: Histogram, rows: int, batches: int) -> Batch:
    pool = _expanded(lengths)
    draw = random.Random(SEED)  # noqa: S311 - an order, no secret
    if len(pool) <= rows:
        return Batch(len(pool), sum(pool), max(pool))

    largest = 0
    longest = 0
    left = batches
    while left > 0:
        draw.shuffle(pool)
        whole = min(left, len(pool) // rows)
        for start in range(0, whole * rows, rows):
            batch = pool[start : start + rows]
            tokens = sum(batch)
            if tokens > largest:
                largest, longest = tokens, max(batch)

        left -= whole

    return Batch(rows, largest, longest)


def _expanded(lengths: Histogram) -> list[int]:
    total = sum(count for _, count in lengths)
    if total <= MOST_ROWS:
        return [tokens for tokens, count in lengths for _ in range(count)]

    pool: list[int] = []
    passed = 0
    for tokens, count in lengths:
        before = passed * MOST_ROWS // total
        passed += count
        pool += [tokens] * (passed * MOST_ROWS // total - before)

    return pool


def packed_batch(lengths: Histogram, rows: int, limit: int) -> Batch:
    """Sequences that are filled with several rows, up to `limit` tokens each."""
    total = sum(tokens * count for tokens, count in lengths)
    tokens = min(rows * limit, total)
    return Batch(rows, tokens, min(lengths[-1][0], limit))

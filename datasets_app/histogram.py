"""Token counts as bars and key figures, for a page and for the API."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

BARS = 24


@dataclass(frozen=True)
class Bar:
    """Rows with `low` to `high` tokens, both included; the last bar takes all that are longer."""

    low: int
    high: int
    rows: int


@dataclass(frozen=True)
class Histogram:
    """Over all rows that can be trained on; `tokens` is their sum, `p95` the length that 95% of
    them do not exceed."""

    rows: int = 0
    tokens: int = 0
    median: int = 0
    mean: float = 0.0
    p95: int = 0
    longest: int = 0
    bars: list[Bar] = field(default_factory=list)

    @property
    def highest(self) -> int:
        return max((bar.rows for bar in self.bars), default=0)


def histogram(counts: dict[str, int]) -> Histogram:
    """Bars and key figures of {"tokens": rows}, as TokenLengths.rows has it."""
    lengths = []
    for tokens, rows in counts.items():
        if rows > 0:
            lengths.append((int(tokens), rows))

    if not lengths:
        return Histogram()

    lengths.sort()
    total_rows = sum(rows for _, rows in lengths)
    total_tokens = sum(length * rows for length, rows in lengths)

    return Histogram(
        rows=total_rows,
        tokens=total_tokens,
        median=_quantile(lengths, 0.5),
        mean=total_tokens / total_rows,
        p95=_quantile(lengths, 0.95),
        longest=lengths[-1][0],
        bars=_bars(lengths),
    )


def _quantile(lengths: list[tuple[int, int]], share: float) -> int:
    """The smallest length that at least `share` of the rows do not exceed; `lengths`: (tokens,
    rows), the shortest first."""
    total_rows = sum(rows for _, rows in lengths)
    seen_rows = 0
    for length, rows in lengths:
        seen_rows += rows
        if seen_rows >= share * total_rows:
            return length

    return lengths[-1][0]


def _bars(lengths: list[tuple[int, int]]) -> list[Bar]:
    """Bars of a round width. The longest 1% share the last one, or they would flatten all
    others."""
    longest = lengths[-1][0]
    width = _round_up((_quantile(lengths, 0.99) + 1) / BARS)
    count = min(BARS, longest // width + 1)
    rows_in_bar = [0] * count

    for length, rows in lengths:
        index = min(length // width, count - 1)
        rows_in_bar[index] += rows

    bars = []
    for index, rows in enumerate(rows_in_bar):
        low = index * width
        high = low + width - 1
        if index == count - 1:
            high = max(high, longest)

        bars.append(Bar(low, high, rows))

    return bars


def _round_up(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50 …"""
    digits = math.floor(math.log10(max(width, 1)))
    power: int = 10**digits
    return next(step * power for step in (1, 2, 5, 10) if step * power >= width)

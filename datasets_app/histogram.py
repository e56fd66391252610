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
    """From {"tokens": rows}, as TokenLengths.rows has it."""
    lengths = sorted((int(tokens), rows) for tokens, rows in counts.items() if rows > 0)
    total = sum(rows for _, rows in lengths)
    if not total:
        return Histogram()

    tokens = sum(length * rows for length, rows in lengths)
    return Histogram(
        rows=total,
        tokens=tokens,
        median=_quantile(lengths, total, 0.5),
        mean=tokens / total,
        p95=_quantile(lengths, total, 0.95),
        longest=lengths[-1][0],
        bars=_bars(lengths, _quantile(lengths, total, 0.99)),
    )


def _quantile(lengths: list[tuple[int, int]], total: int, share: float) -> int:
    """The smallest length that at least `share` of the rows do not exceed."""
    seen = 0
    for length, rows in lengths:
        seen += rows
        if seen >= share * total:
            return length

    return lengths[-1][0]


def _bars(lengths: list[tuple[int, int]], nearly_longest: int) -> list[Bar]:
    """Bars of a round width. The few longest rows share the last one, or they would flatten all
    others."""
    width = _round_up((nearly_longest + 1) / BARS)
    count = min(BARS, lengths[-1][0] // width + 1)
    rows = [0] * count

    for length, number in lengths:
        rows[min(length // width, count - 1)] += number

    highs = [(index + 1) * width - 1 for index in range(count)]
    highs[-1] = max(highs[-1], lengths[-1][0])
    return [
        Bar(index * width, high, number)
        for index, (high, number) in enumerate(zip(highs, rows, strict=True))
    ]


def _round_up(width: float) -> int:
    """1, 2, 5, 10, 20, 50 …"""
    power: int = 10 ** max(0, math.floor(math.log10(max(width, 1))))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= width)

"""What follows a model's slug in the names of its further repositories in the mirror, such as
`-adapter`: no slug may end so, or its model would be found in their place."""

from __future__ import annotations

_suffixes: set[str] = set()


def suffix_reserve(suffix: str) -> None:
    _suffixes.add(suffix)


def suffixes_reserved() -> tuple[str, ...]:
    return tuple(sorted(_suffixes))

"""Numbers with their nouns and verbs, so that nothing says "1 rows are". Standard library only."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """ "1 row", "0 rows", "1,234 rows"; `plural` where it is not the noun with an s."""
    if number == 1:
        return f"1 {noun}"

    return f"{number:,} {plural or f'{noun}s'}"


def are(number: int) -> str:
    return "is" if number == 1 else "are"

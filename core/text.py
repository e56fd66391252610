"""Text from people and programs, made safe to store; that of people also to show: no control
characters, no bidirectional overrides."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from engine.messages.plural import are, counted

__all__ = ["are", "clean_label", "clean_text", "counted", "number_of", "storable"]

_CONTROLS = re.compile(
    # control characters but tab, newline and carriage return
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
    # marks that turn the reading direction, byte order mark
    r"\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff"
    r"\ud800-\udfff]"  # halves of surrogate pairs, which no database stores
)


# What PostgreSQL takes neither in a text nor in JSON. A model may well write the first.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(value: Any) -> Any:
    """A value of JSON whose texts every database takes: what it does not is U+FFFD, all else as it
    was."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {storable(key): storable(each) for key, each in value.items()}

    return [storable(each) for each in value] if isinstance(value, list) else value


def clean_text(text: str) -> str:
    """Several lines: tabs and newlines stay, line ends become \\n."""
    return _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def clean_label(text: str, *, limit: int) -> str:
    """One line of at most `limit` characters, spaces folded, in composed form (so that twins are
    equal)."""
    return (
        re.sub(r"\s+", " ", unicodedata.normalize("NFC", _CONTROLS.sub("", text)))
        .strip()[:limit]
        .strip()
    )


def number_of(text: str, *, most: int = 10**9) -> int:
    """The whole number that a form or an address holds; 0 for anything else."""
    return min(int(text), most) if re.fullmatch(r"[0-9]{1,18}", text.strip()) else 0


def duration_words(seconds: float) -> str:
    """A limit of time in a sentence: "45 seconds", "10 minutes", "6 hours"."""
    for size, word in ((3600, "hour"), (60, "minute")):
        if (seconds >= size and round(seconds) % size == 0) or seconds >= 3 * size:
            count = round(seconds / size)
            return f"{count:,} {word}{'' if count == 1 else 's'}"

    return f"{round(seconds):,} seconds"

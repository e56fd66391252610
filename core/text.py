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


# What PostgreSQL accepts neither in a text nor in JSON. A model may well generate the first.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(value: Any) -> Any:
    """A JSON value whose texts every database accepts: characters that it would not accept become
    U+FFFD."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]

    return value


def clean_text(text: str) -> str:
    """Several lines: tabs and newlines stay, line ends become \\n."""
    return _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def clean_label(text: str, *, limit: int) -> str:
    """One line of at most `limit` characters, with single spaces, in composed form (NFC), so that
    what looks equal is equal."""
    clean = unicodedata.normalize("NFC", _CONTROLS.sub("", text))
    one_line = re.sub(r"\s+", " ", clean).strip()

    return one_line[:limit].strip()


def number_of(text: str, *, most: int = 10**9) -> int:
    """The whole number in a value of a form or an address, at most `most`; 0 for anything that is
    no number."""
    if not re.fullmatch(r"[0-9]{1,18}", text.strip()):
        return 0

    return min(int(text), most)


def duration_words(seconds: float) -> str:
    """A time limit in a sentence: "45 seconds", "10 minutes", "6 hours"."""
    units = {"hour": 3600, "minute": 60}

    for unit, unit_seconds in units.items():
        is_whole = seconds >= unit_seconds and round(seconds) % unit_seconds == 0

        if is_whole or seconds >= 3 * unit_seconds:
            count = round(seconds / unit_seconds)
            plural = "" if count == 1 else "s"
            return f"{count:,} {unit}{plural}"

    return f"{round(seconds):,} seconds"

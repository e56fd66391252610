"""The bytes of a token: of a character's bytes each may be one, which no text can show."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

# SentencePiece's tokens of one byte, and its space.
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE = "▁"
INCOMPLETE = "\ufffd"


@lru_cache(maxsize=1)
def _byte_of() -> dict[str, int]:
    """{letter of a byte-level vocabulary: its byte}."""
    letters: dict[int, str] = bytes_to_unicode()  # type: ignore[no-untyped-call]
    return {letter: byte for byte, letter in letters.items()}


def token_bytes(tokenizer: Any, token: int) -> bytes:
    text = str(tokenizer.decode([token]))
    written = str(tokenizer.convert_ids_to_tokens(token))
    if INCOMPLETE not in text:
        # SentencePiece's space in front of a word is lost where a text begins with it.
        space = " " if written.startswith(SPACE) and not text.startswith(" ") else ""
        return (space + text).encode()

    if found := BYTE.fullmatch(written):
        return bytes([int(found[1], 16)])

    known = _byte_of()
    if all(letter in known for letter in written):
        return bytes(known[letter] for letter in written)

    return text.encode()


def piece_of(tokenizer: Any, token: int) -> str | list[int]:
    """As llama.cpp gives it: a text, or a list of bytes where these are no text."""
    data = token_bytes(tokenizer, token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)

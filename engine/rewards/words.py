"""The words of a text in any script."""

from __future__ import annotations

import re

# Scripts without spaces between words: each character counts as a word.
ALONE = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{ALONE}]|[^\W_{ALONE}]+")


def words(text: str) -> list[str]:
    return WORD.findall(text)

"""The text of an answer while its tokens come."""

from __future__ import annotations

from typing import Any

# What a decoder gives for a character that is not complete.
INCOMPLETE = "\ufffd"
# Of a character's four bytes each may be a token.
MOST_INCOMPLETE = 4


class AnswerText:
    """Tokens -> text that is certain: whole characters, and nothing that a stop text might begin
    with.

    with_marks: whether special tokens become text."""

    def __init__(self, tokenizer: Any, stops: list[str], *, with_marks: bool = False) -> None:
        self.tokenizer = tokenizer
        self.stops = [stop for stop in stops if stop]
        self.with_marks = with_marks
        self.ids: list[int] = []
        # Tokens before `start` give the text before them alone; those before `end` are told.
        self.start = 0
        self.end = 0
        self.held = ""
        self.is_stopped = False

    def add(self, token: int) -> str:
        """The text that has become certain; "" after a stop text."""
        self.ids.append(token)
        new = self._decoded()
        if not new or self.is_stopped:
            return ""

        self.held += new
        return self._released()

    def rest(self) -> str:
        """What was held back, when no more tokens come."""
        if self.is_stopped:
            return ""

        self.held += self._new_text()
        text = self._released()
        if not self.is_stopped:
            text, self.held = text + self.held, ""

        return text

    def _decoded(self) -> str:
        text = self._new_text()
        is_whole = not text.endswith(INCOMPLETE) or len(self.ids) - self.end > MOST_INCOMPLETE
        if not text or not is_whole:
            return ""

        # The next token is decoded behind these, since many put a space in front of a word only
        # within a text.
        self.start, self.end = self.end, len(self.ids)
        return text

    def _new_text(self) -> str:
        before = self._text(self.ids[self.start : self.end])
        return self._text(self.ids[self.start :])[len(before) :]

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=not self.with_marks))

    def _released(self) -> str:
        found = [place for stop in self.stops if (place := self.held.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            text, self.held = self.held[: min(found)], ""
            return text

        kept = max((overlap(self.held, stop) for stop in self.stops), default=0)
        text = self.held[: len(self.held) - kept]
        self.held = self.held[len(text) :]
        return text


def overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    most = min(len(text), len(stop) - 1)
    return next((count for count in range(most, 0, -1) if text.endswith(stop[:count])), 0)

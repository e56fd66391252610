"""One answer while it comes: tokens become text, log-probabilities and calls of tools."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from engine.serving.answer_text import AnswerText
from engine.serving.generation import End, Token
from engine.serving.sampling import Sampling
from engine.serving.token_bytes import token_bytes
from engine.serving.tool_call_format import ToolCallFormat
from engine.serving.variants import Variant


@dataclass(frozen=True)
class Piece:
    """What is new: text, log-probabilities of its tokens in OpenAI's form, or calls."""

    text: str = ""
    log_probs: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Ended:
    problem: str = ""


class Answer:
    """form: how the model writes calls of tools, None where it is offered none. count: its tokens.
    first_at, last_at: when the first and the last of them were there, None before."""

    def __init__(
        self, variant: Variant, prompt: list[int], sampling: Sampling, form: ToolCallFormat | None
    ) -> None:
        self.variant = variant
        self.prompt = prompt
        self.sampling = sampling
        self.form = form
        # Marks of calls may be special tokens.
        self.stream = AnswerText(variant.tokenizer, sampling.stops, with_marks=form is not None)
        self.count = 0
        self.first_at: float | None = None
        self.last_at: float | None = None
        self.text = ""
        self.held = ""
        self.calls: list[dict[str, Any]] = []
        self.log_probs: list[dict[str, Any]] | None = None if sampling.top_logprobs is None else []
        self.pending: list[dict[str, Any]] = []
        self.is_stop = False
        self.problem = ""
        self.has_ended = False

    @property
    def finish_reason(self) -> str:
        if self.calls:
            return "tool_calls"

        return "stop" if self.is_stop else "length"

    def take(self, news: Token | End) -> list[Piece | Ended]:
        """What programs are told of the news."""
        if self.has_ended:
            return []

        if isinstance(news, End):
            self.problem, self.is_stop = news.problem, news.is_stop
            return self._end(self.stream.rest())

        self.count += 1
        self.last_at = time.monotonic()
        if self.first_at is None:
            self.first_at = self.last_at

        if self.log_probs is not None:
            entry = self._log_prob(news)
            self.log_probs.append(entry)
            self.pending.append(entry)

        text = self.stream.add(news.id)
        if self.stream.is_stopped:
            self.is_stop = True
            return self._end(text)

        return self._pieces_of(text)

    def _pieces_of(self, text: str) -> list[Piece | Ended]:
        if self.form is not None and not self._is_plain_text:
            self.held += text
            # From where a call may begin, all waits for the end.
            text, self.held = _before_call(self.held, self.form)

        self.text += text
        if not text:
            return []

        entries, self.pending = self.pending, []
        return [Piece(text, entries)]

    @property
    def _is_plain_text(self) -> bool:
        """Whether no call can follow: one without a mark is a whole answer."""
        return self.form is not None and not self.form.opening and bool(self.text.strip())

    def _end(self, text: str) -> list[Piece | Ended]:
        self.has_ended = True
        pieces = self._pieces_of(text)
        if self.form is not None and self.held:
            rest, calls = self.form.read(self.held)
            self.calls = [call.to_json() for call in calls]
            self.text += rest
            pieces.append(Piece(rest, self.pending, self.calls))
        elif self.pending:
            pieces.append(Piece("", self.pending))

        return [*pieces, Ended(self.problem)]

    def _log_prob(self, token: Token) -> dict[str, Any]:
        entry = self._entry(token.id, token.log_prob)
        return entry | {"top_logprobs": [self._entry(*each) for each in token.likeliest]}

    def _entry(self, token: int, log_prob: float) -> dict[str, Any]:
        data = token_bytes(self.variant.tokenizer, token)
        return {
            "id": token,
            "token": data.decode("utf-8", "replace"),
            "bytes": list(data),
            "logprob": log_prob,
        }


def _before_call(text: str, form: ToolCallFormat) -> tuple[str, str]:
    """(text in front of whatever may be a call, the rest)."""
    start = form.begin(text)
    if start >= 0:
        return text[:start], text[start:]

    # Without a mark, white space may stand in front of a call.
    kept = form.beginning(text)
    return text[: len(text) - kept], text[len(text) - kept :]

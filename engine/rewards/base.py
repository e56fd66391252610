"""The base class of reward functions: a pydantic model of the parameters, with a method that scores
an answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

Turns = list[dict[str, str]]


class Unscored(Exception):
    """The function cannot say what this answer is worth; the text says why."""


@dataclass(frozen=True)
class Answer:
    """An answer of the model, with its prompt, its reference ("" for none), and its row of the
    dataset."""

    prompt: Turns
    text: str
    reference: str = ""
    row: dict[str, Any] = field(default_factory=dict)


class Reward(BaseModel):
    """A reward function. Its fields are its parameters, declared with engine.schema.fields.parameter.

    `low` and `high`: the range of its scores, None where there is no bound. `needs_reference`: it
    compares with the dataset's answer and cannot score rows that have none."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())

    slug: ClassVar[str]
    title: ClassVar[str]
    help: ClassVar[str]
    needs_reference: ClassVar[bool] = False
    low: ClassVar[float | None] = 0.0
    high: ClassVar[float | None] = 1.0

    def score(self, answer: Answer) -> float:
        """What `answer` is worth. Raises Unscored where that cannot be said."""
        raise NotImplementedError

    def columns(self) -> set[str]:
        """Which columns of the row it reads."""
        return set()

    def obstacle(self) -> str:
        """Why this function cannot be used on this installation, or nothing."""
        return ""


def reference_of(answer: Answer) -> str:
    """The reference. Raises Unscored for a row that has none."""
    if not answer.reference.strip():
        raise Unscored("The row has no reference answer.")

    return answer.reference


def tag_content(text: str, tag: str) -> str | None:
    """The text in the last <tag>…</tag> of `text`; the whole text for no tag, None where the tag is
    missing."""
    if not tag:
        return text

    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, end) if end >= 0 else -1
    if start < 0:
        return None

    return text[start + len(f"<{tag}>") : end]

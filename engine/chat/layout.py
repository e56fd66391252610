"""A rendered conversation with the places of its turns' own words, found by marks that the template
carries along."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from engine.chat.template import ChatTemplate, Message, Span, Tools

# Planes 15 and 16 of Unicode are for private use, and hardly any text uses them. One character a
# turn.
FIRST_MARKER = 0xF0000
MARKERS = re.compile("[\U000f0000-\U000ffffd]")
MOST_TURNS = 0xFFFD


@dataclass(frozen=True)
class Layout:
    """text: a rendering, its marks taken out. spans: (start, end) of the words of each marked turn
    in it."""

    text: str
    spans: dict[int, Span]

    def between(self, turn: int, other: int | None) -> str:
        """What stands between the words of `turn` and those of `other`, or the end of the text."""
        end = self.spans[other][0] if other is not None else len(self.text)
        return self.text[self.spans[turn][1] : end]


def lay_out(
    template: ChatTemplate,
    marked: list[Message],
    tools: Tools,
    *,
    add_generation_prompt: bool = False,
) -> Layout | None:
    """The layout of conversations that carry marks.

    None where the template refuses them, or where it does not write the turns one behind the other.
    """
    text = template.attempt(marked, tools, add_generation_prompt=add_generation_prompt)
    if text is None:
        return None

    spans: dict[int, Span] = {}
    for earlier_marks, mark in enumerate(MARKERS.finditer(text)):
        turn, position = ord(mark[0]) - FIRST_MARKER, mark.start() - earlier_marks
        start = spans[turn][0] if turn in spans else position
        spans[turn] = (start, position)

    if list(spans) != sorted(spans):
        return None
    if any(spans[first][1] > spans[second][0] for first, second in pairwise(spans)):
        return None

    return Layout(MARKERS.sub("", text), spans)


def with_markers(message: Message, turn: int) -> Message:
    """A turn whose words are marked on both sides, within white space that a template may trim."""
    return message | {"content": text_with_markers(message["content"], turn)}


def text_with_markers(text: str, turn: int) -> str:
    mark = chr(FIRST_MARKER + turn)
    words = text.strip()
    start = text.find(words) if words else len(text)
    return f"{text[:start]}{mark}{words}{mark}{text[start + len(words) :]}"


def call_with_markers(message: Message, turn: int) -> Message:
    """A turn that calls tools, with marks around the texts among their arguments."""
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        calls.append(
            call
            | {
                "function": function
                | {"arguments": _values_with_markers(function["arguments"], turn)}
            }
        )

    return message | {"tool_calls": calls}


def _values_with_markers(value: Any, turn: int) -> Any:
    if isinstance(value, dict):
        return {name: _values_with_markers(item, turn) for name, item in value.items()}

    return text_with_markers(value, turn) if isinstance(value, str) else value

"""Where a rendered conversation has the content of its turns, found by private-use characters that
the template carries along."""

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
    """text: a rendering, its markers taken out. spans: (start, end) of the content of each marked
    turn in it."""

    text: str
    spans: dict[int, Span]

    def between(self, turn: int, other: int | None) -> str:
        """The text between the content of `turn` and that of `other`, or the end."""
        end = self.spans[other][0] if other is not None else len(self.text)
        return self.text[self.spans[turn][1] : end]


def lay_out(
    template: ChatTemplate,
    marked: list[Message],
    tools: Tools,
    *,
    add_generation_prompt: bool = False,
) -> Layout | None:
    """The layout of conversations that carry markers.

    None where the template refuses them, or where it does not write the turns one behind the other.
    """
    text = template.attempt(marked, tools, add_generation_prompt=add_generation_prompt)
    if text is None:
        return None

    spans: dict[int, Span] = {}
    for markers_before, marker in enumerate(MARKERS.finditer(text)):
        turn = ord(marker[0]) - FIRST_MARKER
        # In the text without markers.
        position = marker.start() - markers_before
        start, _ = spans.get(turn, (position, position))
        spans[turn] = (start, position)

    if list(spans) != sorted(spans):
        return None

    for (_, end), (next_start, _) in pairwise(spans.values()):
        if end > next_start:
            return None

    return Layout(MARKERS.sub("", text), spans)


def with_markers(message: Message, turn: int) -> Message:
    """A turn with markers around its content, within white space that a template may trim."""
    return message | {"content": text_with_markers(message["content"], turn)}


def text_with_markers(text: str, turn: int) -> str:
    """The text with a marker before its first and behind its last visible character."""
    marker = chr(FIRST_MARKER + turn)
    content = text.strip()
    start = text.find(content) if content else len(text)
    end = start + len(content)
    return f"{text[:start]}{marker}{content}{marker}{text[end:]}"


def call_with_markers(message: Message, turn: int) -> Message:
    """A turn that calls tools, with markers around the texts among their arguments."""
    calls = []
    for call in message["tool_calls"]:
        function = dict(call["function"])
        function["arguments"] = _values_with_markers(function["arguments"], turn)
        calls.append(call | {"function": function})

    return message | {"tool_calls": calls}


def _values_with_markers(value: Any, turn: int) -> Any:
    if isinstance(value, dict):
        return {name: _values_with_markers(item, turn) for name, item in value.items()}

    return text_with_markers(value, turn) if isinstance(value, str) else value

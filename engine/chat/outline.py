"""Where a chat template begins and ends the assistant's turns, whatever it writes into them.

The words of the user and of tools are marked. Between two marks the template writes the end of that
turn, the header of the assistant's, the turn itself, its end and the next header. Headers and ends
are the template's own and are learned once, from made-up conversations (engine.chat.outline_learn);
what is left between them is the assistant's. A row takes two renderings, however many turns it has
and however the template rewrites earlier ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from engine.chat.layout import MARKERS, MOST_TURNS, Layout, lay_out, with_markers
from engine.chat.outline_learn import (
    Ending,
    TurnBoundaries,
    common_start,
    learn_plain_turns,
    learn_tool_turns,
)
from engine.chat.template import ChatTemplate, Message, Tools
from engine.chat.tool_turns import ToolTurns


@dataclass(frozen=True)
class Answer:
    """The assistant's turn number `turn`, as characters of a rendering, its end included."""

    turn: int
    start: int
    end: int


class Outline:
    """Finds the assistant's turns in what one template renders."""

    def __init__(self, template: ChatTemplate, tool_turns: ToolTurns) -> None:
        self.template = template
        self.tool_turns = tool_turns
        self.tools_are_used = False

    def answers(self, messages: list[Message], text: str, tools: Tools) -> list[Answer] | None:
        """All turns of the assistant in `text`, to which `messages` are rendered; None where it
        cannot tell."""
        if self.plain is None or len(messages) > MOST_TURNS or MARKERS.search(text) is not None:
            return None

        marked = [
            with_markers(message, turn) if message["role"] in ("user", "tool") else message
            for turn, message in enumerate(messages)
        ]
        layout = lay_out(self.template, marked, tools)
        if layout is None or layout.text != text:
            return None

        answers: list[Answer] = []
        for turn, message in enumerate(messages):
            if message["role"] == "assistant":
                answer = self._answer(layout, messages, turn)
                if answer is None:
                    return None

                answers.append(answer)

        return answers

    def _answer(self, layout: Layout, messages: list[Message], turn: int) -> Answer | None:
        before = messages[turn - 1]
        after = messages[turn + 1] if turn + 1 < len(messages) else None
        if turn - 1 not in layout.spans or (after is not None and turn + 1 not in layout.spans):
            return None

        kind = "call" if messages[turn].get("tool_calls") else "text"
        known = self.calling if kind == "call" or before["role"] == "tool" else self.plain
        ending = (
            known.endings.get((kind, after["role"] if after is not None else ""))
            if known is not None
            else None
        )

        if known is None or ending is None:
            return None

        region = layout.between(turn - 1, turn + 1 if after is not None else None)
        start = self._start(region, known.headers[before["role"]])

        # The mark of the next turn stands behind the white space with which its words begin.
        blank = len(after["content"]) - len(after["content"].lstrip()) if after is not None else 0
        end = _end(region, start, ending, blank)
        if end is None:
            return None

        offset = layout.spans[turn - 1][1]
        return Answer(turn, offset + start, offset + end)

    def _start(self, region: str, headers: list[str]) -> int:
        """Behind the header that comes first, the longest of those that begin at the same place.

        DeepSeek's template, for one, forgets the header of a second turn of calls: then all is the
        assistant's but what a header would begin with, too."""
        places = []
        for header in headers:
            position = region.find(header)
            if position >= 0:
                places.append((position, -len(header)))

        if places:
            position, length = min(places)
            return position - length

        return max(
            (len(common_start(self.template, region, header)) for header in headers), default=0
        )

    def is_closed(self, text: str) -> bool:
        """Whether `text`, cut where an answer ends, ends with a token at which a model can stop."""
        if self.plain is None:
            return self.template.ends_with_token(text)

        endings = [ending for known in self._used() for ending in known.endings.values()]
        return any(ending.has_token and text.endswith(ending.end) for ending in endings)

    @property
    def call_end(self) -> str:
        """The token that ends a turn of calls; "" for none, and where no row calls tools."""
        for known in self._used():
            ending = known.endings.get(("call", "tool"))
            if ending is not None and ending.has_token:
                return ending.end

        return ""

    def _used(self) -> list[TurnBoundaries]:
        """What was learned so far: nothing about calls where no row has any."""
        known = [self.plain, self.calling if self.tools_are_used else None]
        return [item for item in known if item is not None]

    @cached_property
    def plain(self) -> TurnBoundaries | None:
        return learn_plain_turns(self.template)

    @cached_property
    def calling(self) -> TurnBoundaries | None:
        self.tools_are_used = True
        return (
            learn_tool_turns(self.template, self.tool_turns, self.plain)
            if self.plain is not None
            else None
        )


def _end(region: str, start: int, ending: Ending, blank: int) -> int | None:
    if ending.rest is not None:
        closing = ending.end + ending.rest
        for text in (region, region[: len(region) - blank]):
            if text.endswith(closing) and len(text) - len(closing) >= start:
                return len(text) - len(ending.rest)

    position = region.rfind(ending.end, start) if ending.end else -1
    return position + len(ending.end) if position >= 0 else None

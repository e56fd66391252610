"""Where a chat template begins and ends the assistant's turns, whatever it writes into them.

The content of the user's and of tools' turns is marked. Between two markers the template writes the
end of that turn, the header of the assistant's, the turn itself, its end and the next header.
Headers and ends are the template's own and are learned once, from made-up conversations
(engine.chat.outline_learn); what is left between them is the assistant's. A row takes two
renderings, however many turns it has and however the template rewrites earlier ones."""

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
        """All turns of the assistant in `text`, to which `messages` are rendered; None where
        that is unclear."""
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
        is_last = turn + 1 == len(messages)
        after = None if is_last else messages[turn + 1]
        if turn - 1 not in layout.spans:
            return None
        if after is not None and turn + 1 not in layout.spans:
            return None

        boundaries, ending = self._ending(messages[turn], before, after)
        if boundaries is None or ending is None:
            return None

        region = layout.between(turn - 1, None if is_last else turn + 1)
        start = self._start(region, boundaries.headers[before["role"]])

        # The marker of the next turn stands behind the white space with which its content begins.
        blank = 0
        if after is not None:
            blank = len(after["content"]) - len(after["content"].lstrip())

        end = _end(region, start, ending, blank)
        if end is None:
            return None

        _, offset = layout.spans[turn - 1]
        return Answer(turn, offset + start, offset + end)

    def _ending(
        self, message: Message, before: Message, after: Message | None
    ) -> tuple[TurnBoundaries | None, Ending | None]:
        """(what is known of turns such as this one, how it ends)."""
        kind = "call" if message.get("tool_calls") else "text"
        next_role = after["role"] if after is not None else ""

        about_tools = kind == "call" or before["role"] == "tool"
        boundaries = self.calling if about_tools else self.plain
        if boundaries is None:
            return None, None

        return boundaries, boundaries.endings.get((kind, next_role))

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
            position, negative_length = min(places)
            return position - negative_length

        shared = [len(common_start(self.template, region, header)) for header in headers]
        return max(shared, default=0)

    def is_closed(self, text: str) -> bool:
        """Whether `text`, cut where an answer ends, ends with a token at which a model can stop."""
        if self.plain is None:
            return self.template.ends_with_token(text)

        for boundaries in self._learned():
            for ending in boundaries.endings.values():
                if ending.has_token and text.endswith(ending.end):
                    return True

        return False

    @property
    def call_end(self) -> str:
        """The token that ends a turn of calls; "" for none, and where no row calls tools."""
        for boundaries in self._learned():
            ending = boundaries.endings.get(("call", "tool"))
            if ending is not None and ending.has_token:
                return ending.end

        return ""

    def _learned(self) -> list[TurnBoundaries]:
        """What was learned so far: nothing about calls where no row has any."""
        boundaries = [self.plain]
        if self.tools_are_used:
            boundaries.append(self.calling)

        return [item for item in boundaries if item is not None]

    @cached_property
    def plain(self) -> TurnBoundaries | None:
        return learn_plain_turns(self.template)

    @cached_property
    def calling(self) -> TurnBoundaries | None:
        self.tools_are_used = True
        if self.plain is None:
            return None

        return learn_tool_turns(self.template, self.tool_turns, self.plain)


def _end(region: str, start: int, ending: Ending, blank: int) -> int | None:
    """Where in `region` the turn that begins at `start` ends, None where that is unclear. blank:
    characters of white space at the end of `region` that may belong to the next turn."""
    if ending.rest is not None:
        closing = ending.end + ending.rest
        for text in (region, region[: len(region) - blank]):
            fits = len(text) - len(closing) >= start
            if fits and text.endswith(closing):
                return len(text) - len(ending.rest)

    if not ending.end:
        return None

    position = region.rfind(ending.end, start)
    return position + len(ending.end) if position >= 0 else None

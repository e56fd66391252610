"""Which characters of a rendered conversation are learned.

Found in this order: by the generation tags of the template or of TRL's training template, where
they render the same text; by the template's outline; by comparing renderings. Where none of it
works only the last answer is learned, or else the whole row; both are reported."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from engine.chat.generation_marks import marked_template
from engine.chat.outline import Answer, Outline
from engine.chat.row_notes import LAST_ANSWER_ALONE, WHOLE_ROW
from engine.chat.template import ChatTemplate, Message, Span, TemplateProblem, Tools
from engine.chat.tool_turns import ToolTurns


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation.

    text: all of it.
    answers: the parts that are learned, in order; of a whole row one that begins at 0.
    finding: a code of engine.chat.row_notes where less, or more, than the answers is learned.
    """

    text: str
    answers: list[Answer]
    finding: str = ""


class Masks:
    """Renders conversations and finds the assistant's turns in them."""

    def __init__(self, template: ChatTemplate, tool_turns: ToolTurns) -> None:
        self.template = template
        self.outline = Outline(template, tool_turns)

    @cached_property
    def marked(self) -> str | None:
        return marked_template(self.template)

    def render(self, messages: list[Message], tools: Tools) -> Rendered:
        """Raises TemplateProblem."""
        text = self.template.render(messages, tools)
        answers = self._by_generation_tags(messages, text, tools)
        if answers is None:
            answers = self.outline.answers(messages, text, tools)
        if answers is None:
            answers = self._by_comparison(messages, text, tools)
        if answers is not None:
            return Rendered(text, answers)

        last = self._last_answer(messages, text, tools)
        if last is not None:
            return Rendered(text, [last], LAST_ANSWER_ALONE)

        whole = Answer(len(messages) - 1, 0, len(text))
        return Rendered(text, [whole], WHOLE_ROW)

    # By generation tags.

    def _by_generation_tags(
        self, messages: list[Message], text: str, tools: Tools
    ) -> list[Answer] | None:
        if self.marked is None:
            return None

        try:
            marked_text, spans = self.template.render_marked(messages, tools, self.marked)
        except TemplateProblem:
            return None

        turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        # One for each turn: where a template marks several, or leaves calls out, the outline tells
        # turns apart.
        if marked_text != text or len(spans) != len(turns):
            return None

        answers = []
        for turn, (start, end) in zip(turns, spans, strict=True):
            start, end = self._whole_turn(text, start, end)
            calls = messages[turn].get("tool_calls", ())
            if any(call["function"]["name"] not in text[start:end] for call in calls):
                # Its author marked the content alone.
                return None

            answers.append(Answer(turn, start, end))

        return answers

    def _whole_turn(self, text: str, start: int, end: int) -> Span:
        """A marked span without what the question to the model holds already, and with the end
        token.

        Spans of some templates begin before the end of the generation prompt, many end behind the
        white space after the end token, and some leave the end token out."""
        start = self._behind_header(text, start, end)
        content = text[start:end].rstrip()
        end = start + len(content)
        if self.outline.is_closed(content):
            return start, end

        behind = text[end:]
        blank = len(behind) - len(behind.lstrip())
        token = self.template.added_pattern.match(behind, blank)
        if token is not None:
            end += token.end()

        return start, end

    def _behind_header(self, text: str, start: int, end: int) -> int:
        """`start`, or the end of the header in which it lies."""
        if self.outline.plain is None:
            return start

        for header in self.outline.plain.headers["user"]:
            position = text.find(header, max(0, start - len(header)))
            header_end = position + len(header)
            if 0 <= position <= start < header_end <= end:
                return header_end

        return start

    # By comparison.

    def _by_comparison(
        self, messages: list[Message], text: str, tools: Tools
    ) -> list[Answer] | None:
        """An answer is what a turn adds to the rendering that asks for it, where the text begins
        with both."""
        answers = []
        for turn, message in enumerate(messages):
            if message["role"] != "assistant":
                continue

            answer = self._added(messages, turn, text, tools)
            if answer is None:
                return None

            answers.append(answer)

        return answers

    def _added(self, messages: list[Message], turn: int, text: str, tools: Tools) -> Answer | None:
        """The text that a turn adds to the rendering that asks for it, None where that is
        unclear."""
        asked = self.template.attempt(messages[:turn], tools, add_generation_prompt=True)
        is_last = turn == len(messages) - 1
        answered = text if is_last else self.template.attempt(messages[: turn + 1], tools)

        if asked is None or answered is None:
            return None
        if not answered.startswith(asked) or not text.startswith(answered):
            return None

        start = len(asked)
        end = max(start, len(answered.rstrip()))
        return Answer(turn, start, end)

    def _last_answer(self, messages: list[Message], text: str, tools: Tools) -> Answer | None:
        turn = len(messages) - 1
        answer = self._added(messages, turn, text, tools)
        if answer is not None:
            return answer

        content = messages[turn]["content"].strip()
        start = text.rfind(content) if content else -1
        if start < 0:
            return None

        end = max(start, len(text.rstrip()))
        return Answer(turn, start, end)

"""Which characters of a rendered conversation are learned.

Found in this order: by the generation marks of the template or of TRL's training template, where
they render the same text; by the template's outline; by comparing renderings. Where none of it
works only the last answer is learned, and at the very last the whole row, which is said."""

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
    """text: the conversation. answers: what is learned of it, in order; of a whole row one that
    begins at 0.

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
        answers = self._by_marks(messages, text, tools)
        if answers is None:
            answers = self.outline.answers(messages, text, tools)
        if answers is None:
            answers = self._by_comparison(messages, text, tools)
        if answers is not None:
            return Rendered(text, answers)

        last = self._last_answer(messages, text, tools)
        if last is not None:
            return Rendered(text, [last], LAST_ANSWER_ALONE)

        return Rendered(text, [Answer(len(messages) - 1, 0, len(text))], WHOLE_ROW)

    # By marks.

    def _by_marks(self, messages: list[Message], text: str, tools: Tools) -> list[Answer] | None:
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
                # Its author marked the words alone.
                return None

            answers.append(Answer(turn, start, end))

        return answers

    def _whole_turn(self, text: str, start: int, end: int) -> Span:
        """A marked span without what the question to the model holds already, and with the end
        token.

        HashSet of some templates begin before the end of the generation prompt, many end behind the
        white space after the end token, and some leave the end token out."""
        if self.outline.plain is not None:
            for header in self.outline.plain.headers["user"]:
                position = text.find(header, max(0, start - len(header)))
                if 0 <= position <= start < position + len(header) <= end:
                    start = position + len(header)
                    break

        end = max(start, start + len(text[start:end].rstrip()))
        if not self.outline.is_closed(text[start:end]):
            behind = text[end:]
            token = self.template.added_pattern.match(behind, len(behind) - len(behind.lstrip()))
            if token is not None:
                end += token.end()

        return start, end

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
        asked = self.template.attempt(messages[:turn], tools, add_generation_prompt=True)
        last = turn == len(messages) - 1
        answered = text if last else self.template.attempt(messages[: turn + 1], tools)
        if (
            asked is None
            or answered is None
            or not (answered.startswith(asked) and text.startswith(answered))
        ):
            return None

        return Answer(turn, len(asked), max(len(asked), len(answered.rstrip())))

    def _last_answer(self, messages: list[Message], text: str, tools: Tools) -> Answer | None:
        turn = len(messages) - 1
        answer = self._added(messages, turn, text, tools)
        if answer is not None:
            return answer

        words = messages[turn]["content"].strip()
        start = text.rfind(words) if words else -1
        return Answer(turn, start, max(start, len(text.rstrip()))) if start >= 0 else None

"""Rows of a dataset as examples to learn from. Standard library only; check, preview and training
all come here.

`to_example` alone decides whether a row is good: the engine trains on exactly the rows for which it
succeeds, in file order, and the check reports exactly the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.rows.chat_turns import (
    CONTENT_KEYS,
    ROLE_KEYS,
    Turn,
    Turns,
    conversation_check,
    learned_check,
    prompt_check,
    system_turns,
    text_turn,
    turns_of,
    with_system_of_row,
)
from engine.rows.column_map import column_use
from engine.rows.formats import FORMATS
from engine.rows.row_reader import SEPARATORS, TRANSCRIPT, RowReader, media_check
from engine.rows.tool_calls import tools_of
from engine.rows.transcripts import ends_with_separator, turns_of_pair
from engine.rows.values import RowProblem, is_blank, required_text, text_of

__all__ = [
    "Example",
    "RowProblem",
    "example_or_none",
    "rating_read",
    "to_example",
    "with_system_prompt",
]

GOOD = (
    "true",
    "yes",
    "good",
    "1",
    "1.0",
    "desirable",
    "desired",
    "chosen",
    "accepted",
    "preferred",
    "like",
    "liked",
)
BAD = (
    "false",
    "no",
    "bad",
    "0",
    "0.0",
    "undesirable",
    "undesired",
    "rejected",
    "dispreferred",
    "dislike",
    "disliked",
)
RATINGS = dict.fromkeys(GOOD, True) | dict.fromkeys((*BAD, "-1", "-1.0"), False)


# Not frozen, which takes three times as long to make: there are millions of them.
@dataclass(slots=True)
class Example:
    """A plain text, or turns, see engine.rows.chat_turns.

    messages: a conversation that ends with an answer; of a pair and of a prompt alone the turns up
    to the answer.
    text: the plain text, where there are no messages.
    chosen, rejected: of a pair the turns that answer `messages`, better and worse.
    label: whether the answer is good.
    tools: what the conversation offers to call, see engine.rows.tool_calls.
    notes, unused: what was noticed while the row was read, see engine.rows.row_reader. They do not
    tell two examples apart.
    """

    messages: Turns | None = None
    text: str | None = None
    chosen: Turns | None = None
    rejected: Turns | None = None
    label: bool | None = None
    tools: list[dict[str, Any]] | None = None
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)
    unused: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def calls_tools(self) -> bool:
        for turn in self.messages or ():
            if turn.get("tool_calls"):
                return True

        return bool(self.tools)

    @property
    def asked(self) -> Turns:
        """The turns up to the last answer."""
        turns = self.messages or []
        return turns[:-1] if _ends_with_answer(turns) else turns

    @property
    def answer(self) -> str:
        """The answer to learn from or to compare with: the last one, the better one of a pair; ""
        for none."""
        turns = self.chosen or self.messages or []
        return str(turns[-1]["content"]) if _ends_with_answer(turns) else ""


def _ends_with_answer(turns: Turns) -> bool:
    return bool(turns) and turns[-1]["role"] == "assistant"


def to_example(values: dict[str, Any], format: str, column_map: dict[str, str]) -> Example:
    """The row as the model will see it. Raises RowProblem, and nothing else, for a row that cannot
    be learned from."""
    if format not in FORMATS:
        raise RowProblem("", "", f"There is no format {format[:40]!r}.")

    use = column_use(format, tuple(column_map.items()))
    others = [name for name in values if name not in use.used]
    if others:
        media_check(values, others)

    row = RowReader(values, use.columns)
    example = READERS[format](row)

    if others:
        row.unused_columns_add(others, use.used, use.partly_used)

    if row.notes or row.unused:
        example.notes = row.notes
        example.unused = row.unused

    return example


def example_or_none(
    values: dict[str, Any], format: str, column_map: dict[str, str]
) -> Example | None:
    """The row as the model will see it, None for one that cannot be learned from."""
    try:
        return to_example(values, format, column_map)
    except RowProblem:
        return None


def with_system_prompt(messages: Turns, system_prompt: str) -> Turns:
    """`system_prompt` in front of a conversation that has none of its own."""
    has_own = bool(messages) and messages[0]["role"] == "system"
    if has_own or not system_prompt.strip():
        return messages

    return [{"role": "system", "content": system_prompt}, *messages]


def rating_read(value: Any) -> bool | None:
    """Whether a rating is good; None for one that says neither."""
    return RATINGS.get(str(value).strip().lower())


def _messages(row: RowReader) -> Example:
    name = "messages" if "messages" in row.columns else "conversations"
    column = row.column(name)
    value = row.needed(name)
    # Before the turns: what a call may leave out stands in the schema of its tool.
    tools = tools_of(row)

    spoken = _spoken(value, row) or turns_of(value, column, row)
    turns = with_system_of_row(row, spoken)
    conversation_check(turns, column)
    learned_check(turns, column)

    return Example(messages=turns, tools=tools)


def _prompt_completion(row: RowReader) -> Example:
    prompt = row.needed("prompt")
    completion = row.needed("completion")
    column = row.column("completion")
    tools = tools_of(row)
    asked = _prompt_turns(prompt, row.column("prompt"), row)

    if isinstance(prompt, str) and ends_with_separator(prompt):
        row.note(SEPARATORS)

    is_turns = _is_turns(completion)
    answered = turns_of(completion, column, row) if is_turns else [_answer(completion, column, row)]
    turns = with_system_of_row(row, _history(row) + asked + answered)
    conversation_check(turns, column)
    learned_check(turns, column)

    return Example(messages=turns, tools=tools)


def _alpaca(row: RowReader) -> Example:
    asked = {"role": "user", "content": _question(row, "instruction")}
    answer = _answer(row.needed("output"), row.column("output"), row)
    turns = [*system_turns(row), *_history(row), asked, answer]

    return Example(messages=turns)


def _question_answer(row: RowReader) -> Example:
    question = required_text(row.as_text(row.needed("question")), row.column("question"))
    context = _optional_text(row, "context")
    if context:
        question = f"{context}\n\n{question}"

    asked = {"role": "user", "content": question}
    answer = _answer(row.needed("answer"), row.column("answer"), row)
    turns = [*system_turns(row), *_history(row), asked, answer]

    return Example(messages=turns)


def _plain_text(row: RowReader) -> Example:
    return Example(text=required_text(row.needed("text"), row.column("text")))


def _preference(row: RowReader) -> Example:
    tools = tools_of(row)
    chosen = _answer_turns(row, "chosen")
    rejected = _answer_turns(row, "rejected")
    asked = _prompt(row, needed=False)

    if asked:
        asked = _with_system_of(chosen, asked)
        chosen = _without_prompt(asked, chosen)
        rejected = _without_prompt(asked, rejected)
    else:
        asked, chosen, rejected = _common_prompt(chosen, rejected)
        if asked:
            asked = with_system_of_row(row, asked)

    if not asked:
        reason = "There is no prompt, and the answers do not begin with one."
        raise RowProblem(row.column("prompt"), "", reason)

    if chosen == rejected:
        text = str(rejected[-1]["content"]) if rejected else ""
        reason = "Both answers are the same; a pair needs two."
        raise RowProblem(row.column("rejected"), text, reason)

    prompt_check(asked, row.column("prompt"))
    conversation_check([*asked, *chosen], row.column("chosen"))
    conversation_check([*asked, *rejected], row.column("rejected"))

    return Example(messages=asked, chosen=chosen, rejected=rejected, tools=tools)


def _common_prompt(chosen: Turns, rejected: Turns) -> tuple[Turns, Turns, Turns]:
    """(what both sides begin with up to a question, the rest of each).

    Where one side is a whole conversation and the other one the answer alone, the former holds the
    prompt.
    """
    if len(chosen) > 1 and _is_answer_alone(rejected):
        return chosen[:-1], chosen[-1:], rejected
    if len(rejected) > 1 and _is_answer_alone(chosen):
        return rejected[:-1], chosen, rejected[-1:]

    common = 0
    for better, worse in zip(chosen, rejected, strict=False):
        if better != worse:
            break

        common += 1

    while common and chosen[common - 1]["role"] not in ("user", "tool"):
        common -= 1

    return chosen[:common], chosen[common:], rejected[common:]


def _is_answer_alone(turns: Turns) -> bool:
    return len(turns) == 1 and turns[0]["role"] == "assistant"


def _kto(row: RowReader) -> Example:
    tools = tools_of(row)
    asked = _prompt(row, needed=False)
    answered = _answer_turns(row, "completion")

    if asked:
        asked = _with_system_of(answered, asked)
        answered = _without_prompt(asked, answered)
    else:
        # The rated answer ends a conversation that stands whole in its column.
        answered = with_system_of_row(row, answered)

    rating = row.needed("label")
    label = rating_read(rating)
    if label is None:
        reason = "Says neither good nor bad; true or false is needed."
        raise RowProblem(row.column("label"), rating, reason)

    turns = conversation_check([*asked, *answered], row.column("completion"))
    return Example(messages=turns, label=label, tools=tools)


def _prompt_only(row: RowReader) -> Example:
    turns = _prompt(row, needed=True)
    return Example(messages=prompt_check(turns, row.column("prompt")))


def _question(row: RowReader, name: str) -> str:
    """An instruction with its input behind it; either may be blank where the other one is not."""
    extra = _optional_text(row, "input")
    if not extra:
        return required_text(row.as_text(row.needed(name)), row.column(name))

    value = row.get(name)
    if value is None or (isinstance(value, str) and is_blank(value)):
        return extra

    asked = required_text(row.as_text(value), row.column(name))
    return f"{asked}\n\n{extra}"


def _optional_text(row: RowReader, name: str) -> str:
    """The text of a column that need not be there, "" for a blank one."""
    value = row.get(name)
    if value is None:
        return ""

    text = text_of(row.as_text(value), row.column(name))
    return "" if is_blank(text) else text


def _answer(value: Any, column: str, row: RowReader) -> Turn:
    """The answer, with the thinking that stands in a column of its own."""
    answer = text_turn("assistant", row.as_text(value), column)

    if reasoning := _optional_text(row, "reasoning"):
        answer["reasoning_content"] = reasoning

    return answer


def _history(row: RowReader) -> Turns:
    """Earlier questions and answers, oldest first: [[question, answer], …], or turns."""
    column = row.column("history")
    value = row.get("history")
    if value is None:
        return []

    if isinstance(value, str):
        if is_blank(value):
            return []

        reason = "Is not valid JSON; a list of questions and answers is needed."
        value = row.parse(value, column, reason)

    if not value:
        return []
    if not isinstance(value, list):
        raise RowProblem(column, value, "Is not a list of earlier questions and answers.")

    turns: Turns = []
    if isinstance(value[0], dict):
        turns = turns_of(value, column, row)
    else:
        for number, pair in enumerate(value, 1):
            turns += _exchange(pair, f"{column}[{number}]")

    if not _ends_with_answer(turns):
        raise RowProblem(column, value, "The history ends without an answer.")

    return turns


def _exchange(pair: Any, where: str) -> Turns:
    if not isinstance(pair, list) or len(pair) != 2:
        raise RowProblem(where, pair, "Is not a question with its answer: [question, answer].")

    question, answer = pair
    return [
        text_turn("user", question, f"{where}[1]"),
        text_turn("assistant", answer, f"{where}[2]"),
    ]


def _prompt(row: RowReader, *, needed: bool) -> Turns:
    """The turns up to the answer, the row's system prompt in front. A conversation may stand in a
    prompt's place."""
    extra = _optional_text(row, "input")
    if not needed and not extra and row.get("prompt") is None:
        return _history(row)

    value = row.get("prompt") if extra else row.needed("prompt")
    turns: Turns
    if extra and not _is_turns(value):
        turns = [{"role": "user", "content": _question(row, "prompt")}]
    else:
        turns = _prompt_turns(value, row.column("prompt"), row)
        # A prompt of turns has no place for it.
        row.unused_add(row.column("input"), extra)

    return with_system_of_row(row, _history(row) + turns)


def _prompt_turns(value: Any, column: str, row: RowReader) -> Turns:
    if _is_turns(value):
        return turns_of(value, column, row)

    return _spoken(value, row) or [text_turn("user", value, column)]


def _answer_turns(row: RowReader, name: str) -> Turns:
    """An answer as text, as one turn, or as turns."""
    value = row.needed(name)
    column = row.column(name)
    if isinstance(value, dict):
        value = [value]
    if _is_turns(value):
        return turns_of(value, column, row)

    return _spoken(value, row) or [_answer(value, column, row)]


def _spoken(value: Any, row: RowReader) -> Turns:
    """The turns of a text that is written as "Human: … Assistant: …"; [] for any other."""
    turns = turns_of_pair(value) if isinstance(value, str) else []
    if turns:
        row.note(TRANSCRIPT)

    return turns


def _is_turns(value: Any) -> bool:
    if isinstance(value, str):
        # Of most texts the first character tells.
        may_be = value[:1] in ("[", " ", "\t", "\n", "\r")
        return may_be and value.lstrip().startswith(TURNS_AS_TEXT)

    if not isinstance(value, list) or not value:
        return False

    first = value[0]
    if isinstance(first, str):
        return False

    # A list of parts of one text looks nearly alike.
    is_part = isinstance(first, dict) and "text" in first
    return not is_part or any(key in first for key in ROLE_KEYS)


def _without_prompt(asked: Turns, turns: Turns) -> Turns:
    """`turns` without the prompt, where they repeat it."""
    if len(turns) == 1:
        return turns

    prompt = [turn for turn in asked if turn["role"] != "system"]
    rest = [turn for turn in turns if turn["role"] != "system"]
    return rest[len(prompt) :] if rest[: len(prompt)] == prompt else rest


def _with_system_of(turns: Turns, asked: Turns) -> Turns:
    """The prompt with the system prompt that only an answer's own turns begin with."""
    has_system = bool(turns) and turns[0]["role"] == "system"
    if has_system and asked[0]["role"] != "system":
        return [turns[0], *asked]

    return asked


# How a list of turns begins that stands as text where a prompt or an answer may stand too.
TURNS_AS_TEXT = tuple(
    f"[{{{quote}{key}{quote}" for quote in "\"'" for key in (*ROLE_KEYS, *CONTENT_KEYS[:2])
)
READERS: Mapping[str, Callable[[RowReader], Example]] = {
    "messages": _messages,
    "conversations": _messages,
    "preference": _preference,
    "kto": _kto,
    "prompt-completion": _prompt_completion,
    "alpaca": _alpaca,
    "question-answer": _question_answer,
    "text": _plain_text,
    "prompt-only": _prompt_only,
}

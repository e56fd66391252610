"""What a row of a dataset says to a model. Standard library only; check, preview and training all
come here.

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
from engine.rows.row_reader import PYTHON_TEXT, SEPARATORS, TRANSCRIPT, RowReader, media_check
from engine.rows.tool_calls import tools_of
from engine.rows.transcripts import ends_with_separator, turns_of_pair
from engine.rows.values import RowProblem, is_blank, parsed, required_text, text_of

__all__ = ["Example", "RowProblem", "rating_read", "to_example", "with_system_prompt"]

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
    to the answer. chosen, rejected: of a pair the turns that answer `messages`, better and worse.
    label: whether the answer is good. tools: what the conversation offers to call, see
    engine.rows.tool_calls. notes, unused: what was noticed while the row was read, see
    engine.rows.row_reader. They do not tell two examples apart.
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
        return turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns

    @property
    def answer(self) -> str:
        """The answer to learn from or to compare with: the last one, the better one of a pair; ""
        for none."""
        turns = self.chosen or self.messages or []
        return str(turns[-1]["content"]) if turns and turns[-1]["role"] == "assistant" else ""


def to_example(values: dict[str, Any], format: str, column_map: dict[str, str]) -> Example:
    """The row as the model will see it. Raises RowProblem, and nothing else, for a row that cannot
    be learned from."""
    if format not in FORMATS:
        raise RowProblem("", "", f"There is no format {format[:40]!r}.")

    plan = column_use(format, tuple(column_map.items()))
    others = [name for name in values if name not in plan.used]
    if others:
        media_check(values, others)

    row = RowReader(values, plan.columns)
    example = READERS[format](row)

    if others:
        row.leave_columns(others, plan.used, plan.partly_used)
    if row.notes or row.unused:
        example.notes, example.unused = row.notes, row.unused

    return example


def with_system_prompt(messages: Turns, system_prompt: str) -> Turns:
    """`system_prompt` in front of a conversation that has none of its own."""
    if not system_prompt.strip() or (messages and messages[0]["role"] == "system"):
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
    turns = with_system_of_row(row, _spoken(value, row) or turns_of(value, column, row))
    conversation_check(turns, column)
    learned_check(turns, column)

    return Example(messages=turns, tools=tools)


def _prompt_completion(row: RowReader) -> Example:
    prompt, completion = row.needed("prompt"), row.needed("completion")
    column = row.column("completion")
    tools = tools_of(row)
    asked = _prompt_turns(prompt, row.column("prompt"), row)

    if isinstance(prompt, str) and ends_with_separator(prompt):
        row.note(SEPARATORS)

    answered = (
        turns_of(completion, column, row)
        if _is_turns(completion)
        else [_answer(completion, column, row)]
    )

    turns = with_system_of_row(row, _history(row) + asked + answered)
    conversation_check(turns, column)
    learned_check(turns, column)

    return Example(messages=turns, tools=tools)


def _alpaca(row: RowReader) -> Example:
    asked = {"role": "user", "content": _question(row, "instruction")}
    answer = _answer(row.needed("output"), row.column("output"), row)
    return Example(messages=[*system_turns(row), *_history(row), asked, answer])


def _question_answer(row: RowReader) -> Example:
    question = required_text(row.as_text(row.needed("question")), row.column("question"))
    context = _optional_text(row, "context")
    asked = {"role": "user", "content": f"{context}\n\n{question}" if context else question}
    answer = _answer(row.needed("answer"), row.column("answer"), row)

    return Example(messages=[*system_turns(row), *_history(row), asked, answer])


def _plain_text(row: RowReader) -> Example:
    return Example(text=required_text(row.needed("text"), row.column("text")))


def _preference(row: RowReader) -> Example:
    tools = tools_of(row)
    chosen, rejected = (_answer_turns(row, side) for side in ("chosen", "rejected"))
    asked = _prompt(row, needed=False)
    if asked:
        asked = _with_system_of(chosen, asked)
        chosen, rejected = (_behind(asked, turns) for turns in (chosen, rejected))
    else:
        asked, chosen, rejected = _common_prompt(chosen, rejected)
        asked = with_system_of_row(row, asked) if asked else asked

    if not asked:
        raise RowProblem(
            row.column("prompt"), "", "There is no prompt, and the answers do not begin with one."
        )

    if chosen == rejected:
        raise RowProblem(
            row.column("rejected"), _last(rejected), "Both answers are the same; a pair needs two."
        )

    prompt_check(asked, row.column("prompt"))
    for side, turns in (("chosen", chosen), ("rejected", rejected)):
        conversation_check([*asked, *turns], row.column(side))

    return Example(messages=asked, chosen=chosen, rejected=rejected, tools=tools)


def _common_prompt(chosen: Turns, rejected: Turns) -> tuple[Turns, Turns, Turns]:
    """(what both sides begin with up to a question, the rest of each).

    Where one side is a whole conversation and the other one the answer alone, the former holds the
    prompt.
    """
    if len(chosen) > 1 and [turn["role"] for turn in rejected] == ["assistant"]:
        return chosen[:-1], chosen[-1:], rejected
    if len(rejected) > 1 and [turn["role"] for turn in chosen] == ["assistant"]:
        return rejected[:-1], chosen, rejected[-1:]

    common = 0
    while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
        common += 1

    while common and chosen[common - 1]["role"] not in ("user", "tool"):
        common -= 1

    return chosen[:common], chosen[common:], rejected[common:]


def _kto(row: RowReader) -> Example:
    tools = tools_of(row)
    asked = _prompt(row, needed=False)
    answered = _answer_turns(row, "completion")

    if asked:
        asked = _with_system_of(answered, asked)
        answered = _behind(asked, answered)
    else:
        # The rated answer ends a conversation that stands whole in its column.
        answered = with_system_of_row(row, answered)

    rating = row.needed("label")
    label = rating_read(rating)
    if label is None:
        raise RowProblem(
            row.column("label"), rating, "Says neither good nor bad; true or false is needed."
        )

    turns = conversation_check([*asked, *answered], row.column("completion"))
    return Example(messages=turns, label=label, tools=tools)


def _prompt_only(row: RowReader) -> Example:
    return Example(messages=prompt_check(_prompt(row, needed=True), row.column("prompt")))


def _question(row: RowReader, name: str) -> str:
    """An instruction with its input behind it; either may be blank where the other one is not."""
    extra = _optional_text(row, "input")
    value = row.get(name) if extra else row.needed(name)
    if extra and (value is None or (isinstance(value, str) and is_blank(value))):
        return extra

    asked = required_text(row.as_text(value), row.column(name))
    return f"{asked}\n\n{extra}" if extra else asked


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
    column, value = row.column("history"), row.get("history")
    if value is None:
        return []

    if isinstance(value, str):
        if is_blank(value):
            return []

        value, was_python = parsed(
            value, column, "Is not valid JSON; a list of questions and answers is needed."
        )
        if was_python:
            row.note(PYTHON_TEXT)

    if not value:
        return []
    if not isinstance(value, list):
        raise RowProblem(column, value, "Is not a list of earlier questions and answers.")

    if isinstance(value[0], dict):
        turns = turns_of(value, column, row)
    else:
        turns = [
            turn
            for number, pair in enumerate(value, 1)
            for turn in _exchange(pair, f"{column}[{number}]")
        ]

    if [turn["role"] for turn in turns[-1:]] != ["assistant"]:
        raise RowProblem(column, value, "The history ends without an answer.")

    return turns


def _exchange(pair: Any, where: str) -> Turns:
    if not isinstance(pair, list) or len(pair) != 2:
        raise RowProblem(where, pair, "Is not a question with its answer: [question, answer].")

    return [
        text_turn("user", pair[0], f"{where}[1]"),
        text_turn("assistant", pair[1], f"{where}[2]"),
    ]


def _prompt(row: RowReader, *, needed: bool) -> Turns:
    """The turns up to the answer, the row's system prompt in front. A conversation may stand in a
    prompt's place."""
    extra = _optional_text(row, "input")
    if not needed and not extra and row.get("prompt") is None:
        return _history(row)

    value = row.get("prompt") if extra else row.needed("prompt")
    if extra and not _is_turns(value):
        turns: Turns = [{"role": "user", "content": _question(row, "prompt")}]
    else:
        turns = _prompt_turns(value, row.column("prompt"), row)
        # A prompt of turns has no place for it.
        row.leave(row.column("input"), extra)

    if history := _history(row):
        turns = history + turns

    return with_system_of_row(row, turns)


def _prompt_turns(value: Any, column: str, row: RowReader) -> Turns:
    if _is_turns(value):
        return turns_of(value, column, row)

    return _spoken(value, row) or [text_turn("user", value, column)]


def _answer_turns(row: RowReader, name: str) -> Turns:
    """An answer as text, as one turn, or as turns."""
    value, column = row.needed(name), row.column(name)
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
        return value[:1] in ("[", " ", "\t", "\n", "\r") and value.lstrip().startswith(
            TURNS_AS_TEXT
        )

    if not isinstance(value, list) or not value:
        return False

    # A list of parts of one text looks nearly alike.
    first = value[0]
    is_part = isinstance(first, str) or (
        isinstance(first, dict) and not _has_role(first) and "text" in first
    )
    return not is_part


def _has_role(item: dict[str, Any]) -> bool:
    return any(key in item for key in ROLE_KEYS)


def _behind(asked: Turns, turns: Turns) -> Turns:
    """`turns` without the prompt, where they repeat it."""
    if len(turns) == 1:
        return turns

    spoken = [turn for turn in asked if turn["role"] != "system"]
    rest = [turn for turn in turns if turn["role"] != "system"]
    return rest[len(spoken) :] if rest[: len(spoken)] == spoken else rest


def _with_system_of(turns: Turns, asked: Turns) -> Turns:
    """The prompt with the system prompt that only an answer's own turns begin with."""
    if turns and turns[0]["role"] == "system" and asked[0]["role"] != "system":
        return [turns[0], *asked]

    return asked


def _last(turns: Turns) -> str:
    return str(turns[-1]["content"]) if turns else ""


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

"""What a row of a dataset says to a model. Standard library only; check, preview and training all come here.

`to_example` alone decides whether a row is good: the engine trains on exactly the rows for which it succeeds, in file
order, and the check reports exactly the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.formats import FORMATS
from engine.turns import (
    RowProblem,
    Turns,
    conversation,
    filled,
    opening,
    present,
    said,
    system_turns,
    text_of,
    tools_of,
    turns_of,
)

__all__ = ["Example", "RowProblem", "rating_read", "to_example", "with_system_prompt"]

RATINGS = {
    "true": True, "yes": True, "good": True, "1": True, "1.0": True,
    "false": False, "no": False, "bad": False, "0": False, "0.0": False,
}  # fmt: skip


# Not frozen, which takes three times as long to make: there are millions of them.
@dataclass(slots=True)
class Example:
    """A plain text, or turns.

    messages: a conversation that ends with an answer; of a pair and of a prompt alone the turns up to the answer.
    chosen, rejected: of a pair the turns that answer `messages`, better and worse. label: whether the answer is good.
    tools: what the conversation offers to call.
    """

    messages: Turns | None = None
    text: str | None = None
    chosen: Turns | None = None
    rejected: Turns | None = None
    label: bool | None = None
    tools: list[dict[str, Any]] | None = None

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
        """The answer to learn from or to compare with: the last one, the better one of a pair; "" for none."""
        turns = self.chosen or self.messages or []
        return str(turns[-1]["content"]) if turns and turns[-1]["role"] == "assistant" else ""


def to_example(values: dict[str, Any], format: str, column_map: dict[str, str]) -> Example:
    """The row as the model will see it. Raises RowProblem, and nothing else, for a row that cannot be learned from."""
    reader = READERS.get(format)
    if reader is None:
        raise RowProblem("", "", f"There is no format {format[:40]!r}.")
    return reader(values, {name: column_map.get(name, name) for name in COLUMNS[format]})


def with_system_prompt(messages: Turns, system_prompt: str) -> Turns:
    """`system_prompt` in front of a conversation that has none of its own."""
    if not system_prompt.strip() or (messages and messages[0]["role"] == "system"):
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def rating_read(value: Any) -> bool | None:
    """Whether a rating is good; None for one that says neither."""
    return RATINGS.get(str(value).strip().lower())


def _messages(values: dict[str, Any], columns: dict[str, str]) -> Example:
    column = columns.get("messages") or columns["conversations"]
    turns = turns_of(present(values, column), column)
    tools = tools_of(values, columns)
    return Example(messages=conversation(system_turns(values, columns) + turns, column), tools=tools)


def _prompt_completion(values: dict[str, Any], columns: dict[str, str]) -> Example:
    prompt, completion = present(values, columns["prompt"]), present(values, columns["completion"])
    asked = (
        turns_of(prompt, columns["prompt"]) if isinstance(prompt, list) else [said("user", prompt, columns["prompt"])]
    )
    if isinstance(completion, list):
        answered = turns_of(completion, columns["completion"])
    else:
        answered = [said("assistant", completion, columns["completion"])]
    return Example(messages=conversation(system_turns(values, columns) + asked + answered, columns["completion"]))


def _alpaca(values: dict[str, Any], columns: dict[str, str]) -> Example:
    asked = said("user", present(values, columns["instruction"]), columns["instruction"])
    extra = values.get(columns["input"])
    if extra is not None and (text := text_of(extra, columns["input"])).strip():
        asked["content"] += f"\n\n{text}"
    answer = said("assistant", present(values, columns["output"]), columns["output"])
    return Example(messages=[*system_turns(values, columns), asked, answer])


def _question_answer(values: dict[str, Any], columns: dict[str, str]) -> Example:
    asked = said("user", present(values, columns["question"]), columns["question"])
    answer = said("assistant", present(values, columns["answer"]), columns["answer"])
    return Example(messages=[*system_turns(values, columns), asked, answer])


def _plain_text(values: dict[str, Any], columns: dict[str, str]) -> Example:
    return Example(text=filled(present(values, columns["text"]), columns["text"]))


def _preference(values: dict[str, Any], columns: dict[str, str]) -> Example:
    chosen, rejected = (_answer_turns(values, columns[side]) for side in ("chosen", "rejected"))
    asked = _prompt(values, columns, needed=False)
    if asked:
        chosen, rejected = (_behind(asked, turns) for turns in (chosen, rejected))
    else:
        common = 0
        while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
            common += 1
        while common and chosen[common - 1]["role"] != "user":
            common -= 1
        asked, chosen, rejected = chosen[:common], chosen[common:], rejected[common:]
    if not asked:
        raise RowProblem(columns["prompt"], "", "There is no prompt, and the answers do not begin with one.")
    if chosen == rejected:
        raise RowProblem(columns["rejected"], _last(rejected), "Both answers are the same; a pair needs two.")
    opening(asked, columns["prompt"])
    for side, turns in (("chosen", chosen), ("rejected", rejected)):
        conversation([*asked, *turns], columns[side])
    return Example(messages=asked, chosen=chosen, rejected=rejected)


def _kto(values: dict[str, Any], columns: dict[str, str]) -> Example:
    asked = _prompt(values, columns, needed=False)
    answered = _answer_turns(values, columns["completion"])
    # Without a prompt the rated answer ends a conversation that stands whole in its column.
    answered = _behind(asked, answered) if asked else answered
    rating = present(values, columns["label"])
    label = rating_read(rating)
    if label is None:
        raise RowProblem(columns["label"], rating, "Says neither good nor bad; true or false is needed.")
    return Example(messages=conversation([*asked, *answered], columns["completion"]), label=label)


def _prompt_only(values: dict[str, Any], columns: dict[str, str]) -> Example:
    return Example(messages=opening(_prompt(values, columns, needed=True), columns["prompt"]))


def _prompt(values: dict[str, Any], columns: dict[str, str], *, needed: bool) -> Turns:
    """The turns up to the answer, the row's system prompt in front. A conversation may stand in a prompt's place."""
    column = columns["prompt"]
    if not needed and values.get(column) is None:
        return []
    value = present(values, column)
    turns = turns_of(value, column) if _is_turns(value) else [said("user", value, column)]
    return system_turns(values, columns) + turns


def _answer_turns(values: dict[str, Any], column: str) -> Turns:
    """An answer as text, as one turn, or as turns."""
    value = present(values, column)
    if isinstance(value, dict):
        value = [value]
    return turns_of(value, column) if _is_turns(value) else [said("assistant", value, column)]


def _is_turns(value: Any) -> bool:
    if isinstance(value, str):
        return value.lstrip().startswith(('[{"role"', '[{"from"', '[{"content"', '[{"value"'))
    return isinstance(value, list) and bool(value) and not (isinstance(value[0], dict) and "text" in value[0])


def _behind(asked: Turns, turns: Turns) -> Turns:
    """`turns` without the prompt, where they repeat it."""
    spoken = [turn for turn in asked if turn["role"] != "system"]
    rest = [turn for turn in turns if turn["role"] != "system"]
    return rest[len(spoken) :] if rest[: len(spoken)] == spoken else rest


def _last(turns: Turns) -> str:
    return str(turns[-1]["content"]) if turns else ""


COLUMNS = {slug: (*item.columns, *item.optional) for slug, item in FORMATS.items()}
READERS: Mapping[str, Callable[[dict[str, Any], dict[str, str]], Example]] = {
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

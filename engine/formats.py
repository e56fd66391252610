"""What a row of a dataset says to a model. Standard library only; check, preview and training all come here.

`to_example` alone decides whether a row is good: the engine trains on exactly the rows for which it succeeds, in file
order, and the check reports exactly the others.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

VALUE_CHARACTERS = 300
SOME_LIKENESS = 0.6

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
}  # fmt: skip
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value")


class RowProblem(ValueError):
    """Why a row cannot be learned from. `field` names the column, for a turn as messages[2].content, from 1."""

    def __init__(self, field: str, value: Any, reason: str) -> None:
        self.field = field
        self.value = value if isinstance(value, str) else _as_json(value)
        self.value = self.value[:VALUE_CHARACTERS]
        self.reason = reason
        super().__init__(f"{field}: {reason}" if field else reason)


@dataclass(frozen=True)
class Example:
    """One of both: a conversation that ends with an answer, or a plain text."""

    messages: list[dict[str, str]] | None = None
    text: str | None = None


@dataclass(frozen=True)
class Format:
    """`columns` must be there, `optional` may; `aliases` are other names that files use for them."""

    slug: str
    title: str
    description: str
    columns: tuple[str, ...]
    example: str
    optional: tuple[str, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


SYSTEM_ALIASES = {"system": ("system_prompt",)}
ANSWER_NAMES = ("completion", "response", "output", "answer", "reply")

# In the order in which a file's columns are tried.
FORMATS: dict[str, Format] = {
    item.slug: item
    for item in (
        Format(
            "messages",
            "Chat messages",
            "A list of turns with role and content, as the OpenAI API takes them.",
            ("messages",),
            '{"messages": [{"role": "user", "content": "Reset my PIN"},\n'
            '              {"role": "assistant", "content": "Open Settings …"}]}',
            aliases={"messages": ("chat", "dialogue", "dialog")},
        ),
        Format(
            "conversations",
            "ShareGPT conversations",
            "A list of turns with from and value.",
            ("conversations",),
            '{"conversations": [{"from": "human", "value": "Reset my PIN"},\n'
            '                   {"from": "gpt", "value": "Open Settings …"}]}',
            optional=("system",),
            aliases=SYSTEM_ALIASES | {"conversations": ("conversation",)},
        ),
        Format(
            "preference",
            "Preference pairs",
            "A prompt with a better and a worse answer.",
            ("chosen", "rejected"),
            '{"prompt": "Reset my PIN",\n "chosen": "Open Settings …", "rejected": "No."}',
            optional=("prompt", "system"),
            aliases=SYSTEM_ALIASES | {"prompt": ("question", "instruction", "messages", "conversations")},
        ),
        Format(
            "kto",
            "Rated answers (KTO)",
            "A prompt and an answer, and whether the answer is good.",
            ("prompt", "completion", "label"),
            '{"prompt": "Reset my PIN",\n "completion": "Open Settings …", "label": true}',
        ),
        Format(
            "prompt-completion",
            "Prompt and completion",
            "A prompt and the answer to it.",
            ("prompt", "completion"),
            '{"prompt": "Reset my PIN",\n "completion": "Open Settings …"}',
            optional=("system",),
            aliases=SYSTEM_ALIASES | {"prompt": ("input",), "completion": ANSWER_NAMES},
        ),
        Format(
            "alpaca",
            "Alpaca instructions",
            "An instruction, now and then with an input, and the output.",
            ("instruction", "output"),
            '{"instruction": "Translate to French", "input": "Good morning",\n "output": "Bonjour"}',
            optional=("input", "system"),
            aliases=SYSTEM_ALIASES | {"input": ("context",), "output": ANSWER_NAMES},
        ),
        Format(
            "question-answer",
            "Question and answer",
            "A question and its answer.",
            ("question", "answer"),
            '{"question": "How many legs has a spider?",\n "answer": "Eight."}',
            optional=("system",),
            aliases=SYSTEM_ALIASES | {"question": ("query", "q"), "answer": ("a", *ANSWER_NAMES)},
        ),
        Format(
            "text",
            "Plain text",
            "Text to go on from, without questions and answers.",
            ("text",),
            '{"text": "The first text …"}\n{"text": "The second text …"}',
            aliases={"text": ("content", "document")},
        ),
    )
}


def detect(columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> tuple[str, dict[str, str]]:
    """(slug, {the format's column: the file's column}), or ("", {}) for columns that no format has.

    The names themselves first, in the order of FORMATS; then aliases, where the format that explains most columns wins.
    """
    exact = [(item, column_map) for item in FORMATS.values() if (column_map := _matched(item, columns, aliases=False))]
    for item, column_map in exact:
        if _suits(item.slug, column_map, sample, has_pairs=any(other.slug == "preference" for other, _ in exact)):
            return item.slug, _matched(item, columns, aliases=True)
    loose = [(item, column_map) for item in FORMATS.values() if (column_map := _matched(item, columns, aliases=True))]
    loose = [pair for pair in loose if _suits(pair[0].slug, pair[1], sample, has_pairs=False)]
    if not loose:
        return "", {}
    best, column_map = max(loose, key=lambda pair: len(pair[1]))
    return best.slug, column_map


def _matched(item: Format, columns: Sequence[str], *, aliases: bool) -> dict[str, str]:
    """The column map by name, upper and lower case alike; empty where a needed column is missing."""
    by_name: dict[str, str] = {}
    for column in columns:
        by_name.setdefault(str(column).strip().lower(), column)
    found: dict[str, str] = {}
    for wanted in (*item.columns, *item.optional):
        names = (wanted, *(item.aliases.get(wanted, ()) if aliases else ()))
        name = next((name for name in names if name in by_name and by_name[name] not in found.values()), None)
        if name is not None:
            found[wanted] = by_name[name]
    return found if all(column in found for column in item.columns) else {}


def _suits(slug: str, column_map: dict[str, str], sample: Sequence[dict[str, Any]], *, has_pairs: bool) -> bool:
    """Whether the values bear out what the names say, where names alone would mislead."""
    if slug == "kto":
        # A column named label may be anything; only yes and no is a rating.
        ratings = [values.get(column_map["label"]) for values in sample]
        return bool(ratings) and all(str(rating).lower() in ("true", "false", "0", "1") for rating in ratings)
    if slug in ("messages", "conversations") and has_pairs:
        # Beside chosen and rejected a conversation is mostly the prompt alone, with no answer of its own.
        return any(_is_good(values, slug, column_map) for values in sample)
    return True


def _is_good(values: dict[str, Any], slug: str, column_map: dict[str, str]) -> bool:
    try:
        to_example(values, slug, column_map)
    except RowProblem:
        return False
    return True


def is_readable(format: str) -> bool:
    """Whether `to_example` knows the format; those it does not are recognised, and no more."""
    return format in _READERS


def nearest(columns: Sequence[str], count: int = 2) -> list[Format]:
    """The formats whose columns look most like these, for a message about a file that fits none."""
    names = [str(column).lower() for column in columns]

    def likeness(item: Format) -> float:
        best = [
            max((difflib.SequenceMatcher(None, wanted, name[:40]).ratio() for name in names[:100]), default=0.0)
            for wanted in item.columns
        ]
        return sum(best) / len(best)

    readable = [item for item in FORMATS.values() if is_readable(item.slug)]
    near = sorted(readable, key=likeness, reverse=True)
    if likeness(near[0]) < SOME_LIKENESS:
        # Names of another language, or none at all: what most people have.
        near = [FORMATS["question-answer"], FORMATS["messages"]]
    return near[:count]


def to_example(values: dict[str, Any], format: str, column_map: dict[str, str]) -> Example:
    """The row as the model will see it. Raises RowProblem, and nothing else, for a row that cannot be learned from."""
    reader = _READERS.get(format)
    if reader is None:
        raise RowProblem("", "", f"No method here learns from the format {format[:40]!r} yet.")
    return reader(
        values, {name: column_map.get(name, name) for name in (*FORMATS[format].columns, *FORMATS[format].optional)}
    )


def with_system_prompt(messages: list[dict[str, str]], system_prompt: str) -> list[dict[str, str]]:
    """`system_prompt` in front of a conversation that has none of its own."""
    if not system_prompt.strip() or (messages and messages[0]["role"] == "system"):
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def _messages(values: dict[str, Any], columns: dict[str, str]) -> Example:
    column = columns.get("messages") or columns["conversations"]
    turns = _turns(_present(values, column), column)
    return Example(messages=_conversation(_system(values, columns) + turns, column))


def _prompt_completion(values: dict[str, Any], columns: dict[str, str]) -> Example:
    prompt, completion = _present(values, columns["prompt"]), _present(values, columns["completion"])
    asked = (
        _turns(prompt, columns["prompt"]) if isinstance(prompt, list) else [_said("user", prompt, columns["prompt"])]
    )
    if isinstance(completion, list):
        answered = _turns(completion, columns["completion"])
    else:
        answered = [_said("assistant", completion, columns["completion"])]
    return Example(messages=_conversation(_system(values, columns) + asked + answered, columns["completion"]))


def _alpaca(values: dict[str, Any], columns: dict[str, str]) -> Example:
    asked = _said("user", _present(values, columns["instruction"]), columns["instruction"])
    extra = values.get(columns["input"])
    if extra is not None and (text := _text(extra, columns["input"])).strip():
        asked["content"] += f"\n\n{text}"
    answer = _said("assistant", _present(values, columns["output"]), columns["output"])
    return Example(messages=[*_system(values, columns), asked, answer])


def _question_answer(values: dict[str, Any], columns: dict[str, str]) -> Example:
    asked = _said("user", _present(values, columns["question"]), columns["question"])
    answer = _said("assistant", _present(values, columns["answer"]), columns["answer"])
    return Example(messages=[*_system(values, columns), asked, answer])


def _plain_text(values: dict[str, Any], columns: dict[str, str]) -> Example:
    return Example(text=_filled(_present(values, columns["text"]), columns["text"]))


_READERS = {
    "messages": _messages,
    "conversations": _messages,
    "prompt-completion": _prompt_completion,
    "alpaca": _alpaca,
    "question-answer": _question_answer,
    "text": _plain_text,
}


def _present(values: dict[str, Any], column: str) -> Any:
    if column not in values:
        raise RowProblem(column, "", "The column is missing in this row.")
    return values[column]


def _system(values: dict[str, Any], columns: dict[str, str]) -> list[dict[str, str]]:
    """The row's own system prompt; a blank one counts as none."""
    column = columns.get("system", "")
    if not column or values.get(column) is None:
        return []
    text = _text(values[column], column)
    return [{"role": "system", "content": text}] if text.strip() else []


def _said(role: str, value: Any, where: str) -> dict[str, str]:
    return {"role": role, "content": _filled(value, where)}


def _filled(value: Any, where: str) -> str:
    if value is None:
        raise RowProblem(where, None, "Is null; a text is needed.")
    text = _text(value, where)
    if not text.strip():
        raise RowProblem(where, text, "Is blank; a text is needed.")
    return text


def _text(value: Any, where: str) -> str:
    """Text as it is, a number as JSON writes it, the text parts of a list of parts joined."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            if math.isfinite(value):
                return json.dumps(value)
        except (OverflowError, ValueError):
            pass
        raise RowProblem(where, "a number", "Is not a number that can be written down; a text is needed.")
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        return "".join(_part(part, where) for part in value)
    kind = {bool: "true or false", list: "a list", dict: "an object", type(None): "null"}.get(type(value), "no text")
    raise RowProblem(where, value, f"Is {kind}; a text is needed.")


def _part(part: dict[str, Any], where: str) -> str:
    if part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise RowProblem(where, part, "Holds something other than text, such as an image; only text can be learned from.")


def _turns(value: Any, column: str) -> list[dict[str, str]]:
    """Turns with role and content (or from and value), also where a table holds them as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowProblem(column, value, "Begins like a list of turns, but is not valid JSON.") from None
    if not isinstance(value, list):
        raise RowProblem(column, value, "Is not a list of turns.")
    if not value:
        raise RowProblem(column, value, "Has no turns.")
    turns = [_turn(item, f"{column}[{index}]") for index, item in enumerate(value, 1)]
    return [turn for turn in turns if turn["role"] != "system" or turn["content"].strip()]


def _turn(item: Any, where: str) -> dict[str, str]:
    if not isinstance(item, dict):
        raise RowProblem(where, item, "Is not a turn with role and content.")
    role_key = next((key for key in ROLE_KEYS if item.get(key) is not None), "")
    if not role_key:
        raise RowProblem(where, item, "Has no role: each turn says who speaks.")
    role = ROLES.get(str(item[role_key]).strip().lower())
    if role is None:
        raise RowProblem(f"{where}.{role_key}", item[role_key], "Unknown role; system, user and assistant are known.")
    key = next((key for key in CONTENT_KEYS if key in item), CONTENT_KEYS[ROLE_KEYS.index(role_key)])
    content = item.get(key)
    if role == "system":
        return {"role": role, "content": "" if content is None else _text(content, f"{where}.{key}")}
    if content is None and item.get("tool_calls"):
        raise RowProblem(
            f"{where}.{key}", content, "Calls a tool in place of saying something; only text can be learned from."
        )
    return _said(role, content, f"{where}.{key}")


def _conversation(turns: list[dict[str, str]], column: str) -> list[dict[str, str]]:
    """The turns, where they are in an order that every chat template takes: [system,] user, assistant, user, …"""
    start = bool(turns) and turns[0]["role"] == "system"
    for index, turn in enumerate(turns[start:]):
        wanted = "assistant" if index % 2 else "user"
        if turn["role"] == wanted:
            continue
        if turn["role"] == "system":
            raise RowProblem(column, turn["content"], "A system turn stands behind the first turn.")
        if index == 0:
            raise RowProblem(
                column, turn["content"], "The conversation begins with the assistant; the user comes first."
            )
        raise RowProblem(column, turn["content"], f"Two {turn['role']} turns in a row.")
    if not turns[start:]:
        raise RowProblem(column, "", "Has no turns of user and assistant.")
    if turns[-1]["role"] != "assistant":
        raise RowProblem(column, turns[-1]["content"], "The conversation ends without an answer of the assistant.")
    return turns


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError, TypeError):
        return f"({type(value).__name__})"

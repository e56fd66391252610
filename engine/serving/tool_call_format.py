"""How a model writes calls of tools, learned from its chat template, and the calls read back.

The template renders a made-up call. What stands around the function's name and its arguments is the
form:

    <tool_call>\\n{"name": "NAME", "arguments": {…}}\\n</tool_call>     an object with both
    [TOOL_CALLS]NAME[ARGS]{…}                                         the name, then the arguments
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

from engine.chat.template import ChatTemplate, Message
from engine.chat.tool_turns import ToolTurns, tool_described
from engine.serving.answer_text import overlap

NAME, KEY, VALUE = "find_zqx_place", "zqx_town", "Zqxoslo"
ASKED, ANSWER = "Zqxquestion", "Zqxanswer"
NAME_KEYS = ("name", "function")
ARGUMENT_KEYS = ("arguments", "parameters", "args")
READER = json.JSONDecoder()


@dataclass(frozen=True)
class Call:
    """arguments: JSON text of an object."""

    name: str
    arguments: str

    def to_json(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": self.arguments}
        return {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": function,
        }


@dataclass(frozen=True)
class ToolCallFormat:
    """opening: the text in front of a call, "" where an answer that is an object is a call.
    between: what stands between the name and the arguments, where both are in no object."""

    opening: str
    between: str | None = None

    def read(self, text: str) -> tuple[str, list[Call]]:
        """(the text in front of the first call, the calls). All is text where there is none, or one
        that cannot be read."""
        start = self.begin(text)
        if start < 0:
            return text, []

        calls = self._calls(text[start:])
        return (text[:start].rstrip(), calls) if calls else (text, [])

    def begin(self, text: str) -> int:
        """Where the first call begins, -1 where there is none."""
        if self.opening:
            return text.find(self.opening)

        stripped = text.lstrip()
        return len(text) - len(stripped) if stripped[:1] in ("{", "[") else -1

    def beginning(self, text: str) -> int:
        """How many characters at the end of `text` may be the beginning of a call."""
        if not self.opening:
            return len(text) if not text.strip() else 0

        return overlap(text, self.opening)

    def _calls(self, text: str) -> list[Call]:
        parts = text.split(self.opening)[1:] if self.opening else [text]
        calls: list[Call] = []
        for part in parts:
            found = self._named(part) if self.between is not None else _from_objects(part)
            calls += found

        return calls

    def _named(self, part: str) -> list[Call]:
        name, between, rest = part.partition(self.between or "")
        if not between:
            return []

        arguments = _object(rest)
        return [Call(name.strip(), _json(arguments))] if isinstance(arguments, dict) else []


def call_form_learn(template: ChatTemplate) -> ToolCallFormat | None:
    """None for a template that has no place for calls, or whose form is another one."""
    call = {"type": "function", "function": {"name": NAME, "arguments": {KEY: VALUE}}}
    calls = _rendered(template, {"role": "assistant", "content": "", "tool_calls": [call]})
    plain = _rendered(template, {"role": "assistant", "content": ANSWER})
    # What the template writes in front of any answer belongs to no call.
    shared = commonprefix([calls, plain.partition(ANSWER)[0]])  # noqa: RUF071 - no paths
    return _form_of(calls.removeprefix(shared))


def _rendered(template: ChatTemplate, answer: Message) -> str:
    """From the question on; "" where the template refuses it."""
    turns = ToolTurns(template).adapt([{"role": "user", "content": ASKED}, answer])
    text = template.attempt(turns, [tool_described(NAME, KEY)]) or ""
    return text.rpartition(ASKED)[2]


def _form_of(answer: str) -> ToolCallFormat | None:
    """answer: a turn with one call, as the template writes it."""
    name_at = answer.find(NAME)
    if name_at < 0 or KEY not in answer:
        return None

    for match in re.finditer(r"[{\[]", answer[:name_at]):
        found = _object(answer[match.start() :])
        if _from_value(found):
            return ToolCallFormat(_mark(answer[: match.start()]))

    arguments_at = answer.find("{", name_at)
    if arguments_at < 0 or _object(answer[arguments_at:]) != {KEY: VALUE}:
        return None

    between = answer[name_at + len(NAME) : arguments_at]
    opening = answer[:name_at].lstrip()
    return ToolCallFormat(opening, between) if between and opening else None


def _mark(before: str) -> str:
    """The mark in front of a call, without white space, which models write as they like."""
    return before.strip()


def _object(text: str) -> Any:
    """The JSON value at the beginning of `text`, None where there is none."""
    try:
        value, _ = READER.raw_decode(text.lstrip())
    except ValueError:
        return None

    return value


def _from_objects(part: str) -> list[Call]:
    return _from_value(_object(part))


def _from_value(value: Any) -> list[Call]:
    """The calls in a JSON value: one object, or a list of them. None where one is no call."""
    items = value if isinstance(value, list) else [value]
    calls = [_from_item(item) for item in items]
    return [call for call in calls if call is not None] if all(calls) else []


def _from_item(item: Any) -> Call | None:
    if not isinstance(item, dict):
        return None

    name = next((item[key] for key in NAME_KEYS if isinstance(item.get(key), str)), None)
    arguments = next((item[key] for key in ARGUMENT_KEYS if key in item), None)
    if isinstance(arguments, str):
        arguments = _object(arguments)

    return Call(name, _json(arguments)) if name and isinstance(arguments, dict) else None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

"""Calls of tools in the form that a chat template takes: arguments, ids and names.

Templates differ. Most take the arguments of a call as an object, some (DeepSeek) as a JSON text.
Some do without ids, some write whatever id there is, Mistral's wants nine letters and digits,
Kimi's an id that holds the name. The form is found once a template, by rendering a made-up
conversation."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from engine.chat.template import ChatTemplate, Message

NAME, KEY, VALUE, RESULT = "find_zqx_place", "zqx_town", "Zqxoslo", "Zqxresult"
LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class IdForm:
    """fits: whether an id is of this form. make: (name of the function, number of the call, seed)
    -> id."""

    fits: Callable[[str, str], bool]
    make: Callable[[str, int, str], str]


def _nine_characters(name: str, number: int, seed: str) -> str:
    value = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    characters = []
    for _ in range(9):
        value, index = divmod(value, len(LETTERS))
        characters.append(LETTERS[index])

    return "".join(characters)


FREE = IdForm(
    fits=lambda given, name: True,
    make=lambda name, number, seed: f"call_{number + 1}",
)
NINE = IdForm(
    fits=lambda given, name: re.fullmatch(r"[A-Za-z0-9]{9}", given) is not None,
    make=_nine_characters,
)
WITH_NAME = IdForm(
    fits=lambda given, name: name in given,
    make=lambda name, number, seed: f"functions.{name}:{number}",
)
ID_FORMS = (FREE, NINE, WITH_NAME)


@dataclass(frozen=True)
class ToolForm:
    """needs_ids: whether a call without an id cannot be rendered. ids: None where no form of ids is
    taken."""

    arguments_as_text: bool = False
    needs_ids: bool = False
    ids: IdForm | None = FREE


class ToolTurns:
    """Brings the tool turns of a conversation into the form of one template."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template

    def adapt(self, messages: list[Message]) -> list[Message]:
        if not any(message.get("tool_calls") or message["role"] == "tool" for message in messages):
            return messages

        return adapted(messages, self.form)

    @cached_property
    def form(self) -> ToolForm:
        """The first form under which everything of a call and its result is rendered. Few
        renderings decide."""
        for as_text in (False, True):
            if self._renders(ToolForm(as_text, ids=None)):
                ids = next(
                    (ids for ids in ID_FORMS if self._renders(ToolForm(as_text, True, ids))), None
                )
                return ToolForm(as_text, needs_ids=False, ids=ids)

            for ids in ID_FORMS:
                if self._renders(form := ToolForm(as_text, True, ids)):
                    return form

        return ToolForm()

    def _renders(self, form: ToolForm) -> bool:
        text = self.template.attempt(adapted(_probe(), form), _probe_tools())
        if text is None or any(part not in text for part in (NAME, KEY, VALUE)):
            return False

        # An object printed by Python, or a JSON text that was quoted once more.
        return f"{{'{KEY}" not in text and f'\\"{KEY}' not in text


def adapted(messages: list[Message], form: ToolForm) -> list[Message]:
    """The turns in `form`. A result takes id and name of its call: the one that its id names, or
    else the next one."""
    turns: list[Message] = []
    waiting: list[tuple[str | None, Message]] = []
    number = 0

    for message in messages:
        if message.get("tool_calls"):
            calls = []
            waiting = []
            for call in message["tool_calls"]:
                calls.append(_call(call, form, number))
                waiting.append((call.get("id"), calls[-1]))
                number += 1

            message = message | {"tool_calls": calls}

        elif message["role"] == "tool":
            message = _result(message, waiting)

        turns.append(message)

    return turns


def _call(call: dict[str, Any], form: ToolForm, number: int) -> dict[str, Any]:
    function = call["function"]
    name, arguments = function["name"], function["arguments"]
    if form.arguments_as_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)

    made = {key: value for key, value in call.items() if key != "id"}
    made["function"] = function | {"arguments": arguments}

    given = call.get("id")

    if form.ids is None:
        return made

    if given is not None and form.ids.fits(given, name):
        made["id"] = given
    elif given is not None or form.needs_ids:
        made["id"] = form.ids.make(name, number, f"{given or ''}#{number}")

    return made


def _result(message: Message, waiting: list[tuple[str | None, Message]]) -> Message:
    """`waiting`: (id in the file, call as the template sees it) of the calls that have no result
    yet."""
    given = message.get("tool_call_id")
    named = [
        index for index, (known, _) in enumerate(waiting) if given is not None and known == given
    ]
    message = {key: value for key, value in message.items() if key != "tool_call_id"}

    if not waiting:
        return message

    _, call = waiting.pop(named[0] if named else 0)
    if "id" in call:
        message["tool_call_id"] = call["id"]

    message.setdefault("name", call["function"]["name"])
    return message


def _probe() -> list[Message]:
    call = {"type": "function", "function": {"name": NAME, "arguments": {KEY: VALUE}}}
    return [
        {"role": "user", "content": "How warm is it?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": RESULT},
        {"role": "assistant", "content": "Four degrees."},
    ]


def _probe_tools() -> list[dict[str, Any]]:
    return [tool_described(NAME, KEY)]


def tool_described(name: str, *keys: str) -> dict[str, Any]:
    """A tool with these arguments, all texts, as templates take it."""
    properties = {key: {"type": "string", "description": "A town."} for key in keys}
    parameters = {"type": "object", "properties": properties, "required": list(keys)}
    function = {"name": name, "description": "Tells how warm it is.", "parameters": parameters}

    return {"type": "function", "function": function}

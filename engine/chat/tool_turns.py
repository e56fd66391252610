"""Tool calls in the form that a chat template takes: arguments, ids and names.

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
    fits=lambda call_id, name: True,
    make=lambda name, number, seed: f"call_{number + 1}",
)
NINE = IdForm(
    fits=lambda call_id, name: re.fullmatch(r"[A-Za-z0-9]{9}", call_id) is not None,
    make=_nine_characters,
)
WITH_NAME = IdForm(
    fits=lambda call_id, name: name in call_id,
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
                return ToolForm(as_text, needs_ids=False, ids=self._ids(as_text))

            ids = self._ids(as_text)
            if ids is not None:
                return ToolForm(as_text, needs_ids=True, ids=ids)

        return ToolForm()

    def _ids(self, as_text: bool) -> IdForm | None:
        """The first form of ids that the template takes."""
        for ids in ID_FORMS:
            if self._renders(ToolForm(as_text, needs_ids=True, ids=ids)):
                return ids

        return None

    def _renders(self, form: ToolForm) -> bool:
        text = self.template.attempt(adapted(_probe(), form), _probe_tools())
        if text is None:
            return False

        for part in (NAME, KEY, VALUE):
            if part not in text:
                return False

        # An object printed by Python, or a JSON text that was quoted once more.
        is_misprinted = f"{{'{KEY}" in text or f'\\"{KEY}' in text
        return not is_misprinted


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
                adapted_call = _call(call, form, number)
                calls.append(adapted_call)
                waiting.append((call.get("id"), adapted_call))
                number += 1

            message = message | {"tool_calls": calls}

        elif message["role"] == "tool":
            message = _result(message, waiting)

        turns.append(message)

    return turns


def _call(call: dict[str, Any], form: ToolForm, number: int) -> dict[str, Any]:
    function = call["function"]
    name = function["name"]
    arguments = function["arguments"]
    if form.arguments_as_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)

    adapted_call = {key: value for key, value in call.items() if key != "id"}
    adapted_call["function"] = function | {"arguments": arguments}
    if form.ids is None:
        return adapted_call

    own_id = call.get("id")
    if own_id is not None and form.ids.fits(own_id, name):
        adapted_call["id"] = own_id
    elif own_id is not None or form.needs_ids:
        seed = f"{own_id or ''}#{number}"
        adapted_call["id"] = form.ids.make(name, number, seed)

    return adapted_call


def _result(message: Message, waiting: list[tuple[str | None, Message]]) -> Message:
    """`waiting`: (id in the file, call as the template sees it) of the calls that have no result
    yet."""
    own_id = message.get("tool_call_id")
    message = {key: value for key, value in message.items() if key != "tool_call_id"}
    if not waiting:
        return message

    index = 0
    if own_id is not None:
        ids = [call_id for call_id, _ in waiting]
        index = ids.index(own_id) if own_id in ids else 0

    _, call = waiting.pop(index)
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

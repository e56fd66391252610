"""Tool calls, and the tools that a row offers, as chat templates take them.

Standard library only. Files write them in many ways: as the OpenAI API does today and did in 2023,
with arguments as an object or as JSON text, with or without {"type": "function"} around a schema.
"""

from __future__ import annotations

from typing import Any

from engine.rows.row_reader import NULL_ARGUMENTS, RowReader
from engine.rows.values import RowProblem, first_value

ARGUMENT_KEYS = ("arguments", "parameters", "args", "input")
SCHEMA_KEYS = ("parameters", "input_schema", "inputSchema")
# Below these a null of a schema means something.
NULL_MEANS = frozenset({"default", "const", "enum", "examples"})


def tools_of(row: RowReader) -> list[dict[str, Any]] | None:
    """The row's tools, each {"type": "function", "function": {name, description, parameters}}, None
    for none. Raises RowProblem."""
    column = row.column("tools")
    value = row.get("tools")
    if value is None:
        return None

    was_text = isinstance(value, str)
    if was_text and value.strip():
        value = row.parse(value, column, "Is not valid JSON; a list of tools is needed.")
    if not value:
        return None

    items = [value] if isinstance(value, dict) else value
    if not isinstance(items, list):
        raise RowProblem(column, value, "Is not a list of tools, each an object.")

    tools = []
    for number, item in enumerate(items, 1):
        where = f"{column}[{number}]"
        if isinstance(item, str):
            item = row.parse(item, where, "Is not valid JSON; a tool is needed.")

        tools.append(_tool(item, where, padded=not was_text))

    row.tools = tools
    return tools


def _tool(item: Any, where: str, *, padded: bool) -> dict[str, Any]:
    """padded: whether it may have been in a table, which gives every tool the fields of all others,
    as nulls."""
    if not isinstance(item, dict):
        reason = "Is not a tool: an object with the name of a function is needed."
        raise RowProblem(where, item, reason)

    function = item["function"] if isinstance(item.get("function"), dict) else item
    if not _has_name(function):
        raise RowProblem(where, item, "Is not a tool: the name of a function is missing.")

    schema = {name: value for name, value in function.items() if name != "type"}
    for key in SCHEMA_KEYS[1:]:
        if key in schema and "parameters" not in schema:
            schema["parameters"] = schema.pop(key)

    if padded:
        schema = _without_nulls(schema)

    return {"type": "function", "function": schema}


def _has_name(function: dict[str, Any]) -> bool:
    name = function.get("name")
    return isinstance(name, str) and bool(name.strip())


def _without_nulls(value: Any) -> Any:
    """A schema without the fields that are null, but for those where null says something."""
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if not isinstance(value, dict):
        return value

    kept = {}
    for name, item in value.items():
        if name in NULL_MEANS:
            kept[name] = item
        elif item is not None:
            kept[name] = _without_nulls(item)

    return kept


def calls_of(value: Any, where: str, row: RowReader) -> list[dict[str, Any]]:
    """Calls as {"id" where the file has one, "type": "function", "function": {"name", "arguments":
    object}}. Raises RowProblem."""
    was_text = isinstance(value, str)
    if was_text:
        value = row.parse(value, where, "Is not valid JSON; a call of a tool is needed.")

    items = value if isinstance(value, list) else [value]

    calls = []
    for number, item in enumerate(items, 1):
        place = f"{where}[{number}]" if len(items) > 1 else where
        calls.append(_call(item, place, row, padded=not was_text))

    return calls


def _call(item: Any, where: str, row: RowReader, *, padded: bool) -> dict[str, Any]:
    function = item.get("function", item) if isinstance(item, dict) else None
    if not isinstance(function, dict) or not _has_name(function):
        raise RowProblem(where, item, "Is no call of a tool: the name of a function is missing.")

    arguments = first_value(function, ARGUMENT_KEYS) or {}
    if isinstance(arguments, str):
        # As the OpenAI API writes them; templates would quote them once more.
        reason = "Are not valid JSON; an object is needed."
        arguments = row.parse(arguments, f"{where}.arguments", reason)
        padded = False

    if not isinstance(arguments, dict):
        raise RowProblem(f"{where}.arguments", arguments, "Are no object of named arguments.")
    if padded:
        arguments = _without_padding(arguments, function["name"], row)

    call: dict[str, Any] = {
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }

    if isinstance(item.get("id"), str) and item["id"]:
        return {"id": item["id"]} | call

    return call


def _without_padding(arguments: dict[str, Any], name: str, row: RowReader) -> dict[str, Any]:
    """Arguments without those that a table brought in: it gives every call the arguments of all
    tools, as nulls.

    A null stays where the tool's own schema allows it.
    """
    nullable = _nullable(name, row.tools)

    kept = {}
    for argument, value in arguments.items():
        if argument in nullable:
            kept[argument] = value
        elif value is not None:
            kept[argument] = _without_nulls(value)

    if kept != arguments:
        row.note(NULL_ARGUMENTS)

    return kept


def _nullable(name: str, tools: list[dict[str, Any]]) -> set[str]:
    """Arguments of a tool that its schema allows to be null."""
    for tool in tools:
        function = tool["function"]
        if function["name"] != name:
            continue

        parameters = function.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        if isinstance(properties, dict):
            return {argument for argument, schema in properties.items() if _allows_null(schema)}

    return set()


def _allows_null(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False

    types = schema.get("type")
    if types == "null" or schema.get("nullable") is True:
        return True
    if isinstance(types, list) and "null" in types:
        return True
    if None in _list(schema.get("enum")):
        return True

    choices = [*_list(schema.get("anyOf")), *_list(schema.get("oneOf"))]
    return any(map(_allows_null, choices))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

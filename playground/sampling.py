"""What a person sets for the answers: sampling, tools and the form of an answer, checked."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from core.errors import UserError
from core.text import storable

PANES_LIMIT = 3
# A prompt of a million characters is some hundred thousand tokens, more than most models read.
TEXT_LIMIT = 1_000_000
TOOLS_LIMIT = 64
TOOLS_CHARACTERS = 100_000
STOPS_LIMIT = 8
STOP_CHARACTERS = 200
DEFAULT_MAX_TOKENS = 1024


@dataclass(frozen=True)
class Setting:
    """title, help: as the page shows them. least, most: of its values. usual: what models do where
    nothing is set, for the empty field. step: of the field."""

    name: str
    title: str
    help: str
    least: float
    most: float
    usual: str = ""
    step: str = "any"

    @property
    def is_whole(self) -> bool:
        return self.step == "1"


SETTINGS = (
    Setting(
        "temperature",
        "Temperature",
        "Higher is more varied; 0 always takes the likeliest token.",
        0,
        5,
        "1",
        "0.05",
    ),
    Setting(
        "top_p",
        "Top p",
        "Samples from the likeliest tokens whose probabilities add up to this.",
        0,
        1,
        "1",
        "0.01",
    ),
    Setting(
        "top_k",
        "Top k",
        "Samples from this many of the likeliest tokens; 0 for all.",
        0,
        10_000,
        "all",
        "1",
    ),
    Setting(
        "min_p",
        "Min p",
        "Drops tokens less likely than this share of the likeliest one.",
        0,
        1,
        "0",
        "0.01",
    ),
    Setting(
        "frequency_penalty",
        "Frequency penalty",
        "Makes a token less likely each time it has been used.",
        -2,
        2,
        "0",
        "0.1",
    ),
    Setting(
        "presence_penalty",
        "Presence penalty",
        "Makes tokens that have been used once less likely.",
        -2,
        2,
        "0",
        "0.1",
    ),
    Setting(
        "max_tokens",
        "Max tokens",
        "The longest an answer may become.",
        1,
        131_072,
        str(DEFAULT_MAX_TOKENS),
        "1",
    ),
    Setting(
        "seed",
        "Seed",
        "The same seed and settings give the same answer.",
        0,
        2**31 - 1,
        "random",
        "1",
    ),
)


def sampling_clean(given: Any, field: str = "sampling") -> dict[str, Any]:
    """The values that are set. Raises UserError by field."""
    if not isinstance(given, dict):
        raise UserError({field: ["Give an object of names and values."]})

    known = {setting.name: setting for setting in SETTINGS}
    clean: dict[str, Any] = {}

    for name, value in given.items():
        if value is None or name == "stop":
            continue

        setting = known.get(name)
        if setting is None:
            names = ", ".join([*known, "stop"])
            raise UserError({field: [f"{str(name)[:40]!r} is none of {names}."]})

        clean[name] = _number(setting, value, f"{field}.{name}")

    if stops := _stops(given.get("stop"), f"{field}.stop"):
        clean["stop"] = stops

    return clean


def _number(setting: Setting, value: Any, field: str) -> float | int:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise UserError({field: [f"{setting.title}: give a number."]})
    if not setting.least <= value <= setting.most:
        text = f"{setting.title}: give a number from {setting.least:,} to {setting.most:,}."
        raise UserError({field: [text]})
    if setting.is_whole and value != int(value):
        raise UserError({field: [f"{setting.title}: give a whole number."]})

    return int(value) if setting.is_whole else value


def _stops(given: Any, field: str) -> list[str]:
    if given is None:
        return []

    stops = [given] if isinstance(given, str) else given
    if not isinstance(stops, list) or not all(isinstance(item, str) for item in stops):
        raise UserError({field: ["Stop strings: give a list of strings."]})

    stops = [storable(item) for item in stops if item]
    if len(stops) > STOPS_LIMIT or any(len(item) > STOP_CHARACTERS for item in stops):
        text = f"Stop strings: at most {STOPS_LIMIT}, each of at most {STOP_CHARACTERS} characters."
        raise UserError({field: [text]})

    return stops


def tools_clean(given: Any) -> list[dict[str, Any]]:
    """Tools as OpenAI's API has them. Raises UserError."""
    if given in (None, []):
        return []

    if not isinstance(given, list) or len(given) > TOOLS_LIMIT:
        raise UserError({"tools": [f"Give a list of at most {TOOLS_LIMIT} tools."]})

    names = set()
    for number, tool in enumerate(given, start=1):
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not name or tool.get("type") != "function":
            text = (
                f"Tool {number} is not of the form "
                '{"type": "function", "function": {"name": …, "parameters": …}}.'
            )
            raise UserError({"tools": [text]})
        if name in names:
            raise UserError({"tools": [f"Two tools have the name {name[:60]!r}."]})

        names.add(name)

    if len(json.dumps(given)) > TOOLS_CHARACTERS:
        raise UserError({"tools": [f"Give at most {TOOLS_CHARACTERS:,} characters."]})

    clean: list[dict[str, Any]] = storable(given)
    return clean


def response_format_clean(given: Any) -> dict[str, Any]:
    """The form of an answer: {} or {"type": "text"} for plain text, {"type": "json_object"}, or
    {"type": "json_schema", "json_schema": {"schema": {…}}}. Raises UserError."""
    if not given:
        return {}

    kind = given.get("type") if isinstance(given, dict) else None
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"type": "json_object"}

    if kind == "json_schema":
        described = given.get("json_schema")
        schema = described.get("schema") if isinstance(described, dict) else None
        if isinstance(schema, dict) and len(json.dumps(schema)) <= TOOLS_CHARACTERS:
            name = str(described.get("name") or "answer")[:60]
            clean = {"name": name, "schema": storable(schema), "strict": True}
            return {"type": "json_schema", "json_schema": clean}

    text = "Give text, json_object, or json_schema with an object as its schema."
    raise UserError({"response_format": [text]})


def prompt_clean(given: str, field: str = "text") -> str:
    """A person's text as the model gets it. Raises UserError where it is blank or too long."""
    text: str = storable(given.replace("\r\n", "\n"))
    if not text.strip():
        raise UserError({field: ["Write something first."]})
    if len(text) > TEXT_LIMIT:
        long = f"This message has {len(text):,} characters; the limit is {TEXT_LIMIT:,}."
        raise UserError({field: [long]})

    return text

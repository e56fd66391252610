"""The trainer's other options, by their own names: which are offered, and whether values fit them.

They are read from the catalogues engine/schema/options/*.json, which
`python -m engine.programs.option_catalogues` writes from the installed trainers, so that the web
can validate them without a training library. What is not offered is refused: some options the
platform sets itself, others would run code, load from elsewhere, or write elsewhere."""

from __future__ import annotations

import difflib
import functools
import json
import math
from pathlib import Path
from typing import Any

from engine.schema.offered import PARAMETERS_INSTEAD

CATALOGUES = Path(__file__).parent / "options"


class OptionProblem(ValueError):
    """An option that is not offered, or a value that does not fit it; the text is a sentence for
    people."""


@functools.cache
def more_options(recipe: str) -> dict[str, dict[str, Any]]:
    """{name: {type: bool, int, float, choice or object, nullable, default, help, choices, minimum,
    maximum}}."""
    options: dict[str, dict[str, Any]] = json.loads((CATALOGUES / f"{recipe}.json").read_text())
    return options


def options_check(recipe: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values as the trainer takes them. Raises OptionProblem for the first that does not
    fit."""
    offered = more_options(recipe)
    checked = {}

    for name, value in values.items():
        if name not in offered:
            raise OptionProblem(f"{name[:80]}: {_not_offered(name, offered)}")

        checked[name] = _checked(name, value, offered[name])

    return checked


def _not_offered(name: str, offered: dict[str, Any]) -> str:
    """Why the option is refused, and what was probably meant."""
    if name in PARAMETERS_INSTEAD:
        return f"this is the parameter {PARAMETERS_INSTEAD[name]}, not one of the other options."

    similar = difflib.get_close_matches(name, offered, n=1, cutoff=0.7)
    hint = f" Did you mean {similar[0]}?" if similar else ""
    return f"there is no such option, or it is set by the platform itself.{hint}"


def _checked(name: str, value: Any, option: dict[str, Any]) -> Any:
    kind = option["type"]

    if value is None and option["nullable"]:
        return None
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "choice" and value in option["choices"]:
        return value
    if kind == "object" and isinstance(value, dict):
        return value

    if kind in ("int", "float") and _is_number(value, kind):
        number = int(value) if kind == "int" else float(value)
        return _bounded(name, number, option)

    expected = {
        "bool": "true or false",
        "int": "a whole number",
        "float": "a number",
        "object": "an object of names and values",
        "choice": f"one of {', '.join(option.get('choices', []))}",
    }
    raise OptionProblem(f"{name}: needs {expected[kind]}.")


def _is_number(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False

    return math.isfinite(value) and (kind == "float" or value == int(value))


def _bounded(name: str, value: int | float, option: dict[str, Any]) -> int | float:
    low = option.get("minimum", -math.inf)
    high = option.get("maximum", math.inf)

    if not low <= value <= high:
        raise OptionProblem(f"{name}: must lie between {low:,} and {high:,}.")

    return value

"""The trainer's other options, by their own names: which are offered, and whether values fit them.

    python -m engine.schema.options    writes engine/schema/options/*.json anew from the installed
                                       trainers

The web validates against those files and needs no training library. What is not offered is refused:
some options the platform sets itself, others would run code, load from elsewhere, or write
elsewhere."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import json
import math
import pkgutil
import types
import typing
from pathlib import Path
from typing import Any

from engine.schema.offered import PARAMETERS_INSTEAD, Entries

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


def catalogue(config: type[Any], offered: Entries) -> dict[str, dict[str, Any]]:
    """What the dataclass `config` says about the offered fields, with our bounds. Raises KeyError
    for unknown names."""
    fields = {item.name: item for item in dataclasses.fields(config)}
    hints = typing.get_type_hints(config)
    options = {}

    for name, extra in sorted(offered.items()):
        default = fields[name].default
        option = {
            "type": "choice" if "choices" in extra else _option_type(hints[name]),
            "nullable": type(None) in typing.get_args(hints[name]),
            "default": default.value if isinstance(default, enum.Enum) else default,
        }
        option |= extra

        # What is blank by default may be blanked again.
        option["nullable"] |= option["default"] is None
        options[name] = option

    return options


def _option_type(hint: Any) -> str:
    """The name of the option's type for a type hint such as `float | None`. Raises TypeError for a
    hint that no form field stands for."""
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint)
    kinds = set(typing.get_args(hint)) if is_union else {hint}

    for kind, name in ((bool, "bool"), (float, "float"), (int, "int")):
        if kind in kinds:
            return name

    if any(kind is dict or typing.get_origin(kind) is dict for kind in kinds):
        return "object"

    raise TypeError(f"no option type stands for {hint}")


def catalogue_text(recipe: str) -> str:
    """What the recipe's catalogue must hold under the installed trainer."""
    # The registry imports this module.
    from engine.schema.registry import RECIPES

    config = pkgutil.resolve_name(RECIPES[recipe].trainer_config)
    options = catalogue(config, RECIPES[recipe].options)
    return json.dumps(options, indent=1, ensure_ascii=False) + "\n"


def catalogues_write() -> None:
    from engine.schema.registry import RECIPES

    for recipe in RECIPES:
        (CATALOGUES / f"{recipe}.json").write_text(catalogue_text(recipe))


if __name__ == "__main__":
    catalogues_write()

"""python -m engine.programs.option_catalogues    writes engine/schema/options/*.json anew from the
installed trainers: the other options of each recipe, with their types, defaults and bounds.

To be run after an update of TRL, or a change of engine.schema.offered or the registry."""

from __future__ import annotations

import dataclasses
import enum
import json
import pkgutil
import types
import typing
from typing import Any

from engine.schema.offered import Entries
from engine.schema.options import CATALOGUES
from engine.schema.registry import RECIPES, Recipe


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


def catalogue_text(recipe: Recipe) -> str:
    """What the recipe's catalogue must hold under the installed trainer."""
    config = pkgutil.resolve_name(recipe.trainer_config)
    options = catalogue(config, recipe.options)
    return json.dumps(options, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    for recipe in RECIPES.values():
        (CATALOGUES / f"{recipe.name}.json").write_text(catalogue_text(recipe))


if __name__ == "__main__":
    main()

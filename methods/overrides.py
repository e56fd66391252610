"""What operators may choose for a method, checked before any train meets it."""

from __future__ import annotations

import difflib
import math
from typing import Any

from core.errors import UserError
from engine.schema.registry import RECIPES
from methods.models import TrainingMethod
from methods.schema import NUMBER_KINDS, Field, method_fields, plain
from methods.services import parameters_validate, value_obstacle

KEYS = ("default", "default_on_cpu", "fixed", "hidden", "minimum", "maximum")
BOUNDS = ("minimum", "maximum")


def overrides_check(recipe: str, overrides: Any) -> None:
    """Raises UserError {"overrides": [one message a mistake]}."""
    if recipe not in RECIPES:
        raise UserError(
            {"recipe": [f"There is no recipe {recipe[:40]!r}. There are: {', '.join(RECIPES)}."]}
        )

    if not _is_object_of_objects(overrides):
        raise UserError(
            {"overrides": ['Overrides are an object: {"field": {"default": …, "maximum": …}}.']}
        )

    fields = method_fields(TrainingMethod(recipe=recipe, overrides={}))
    problems = []
    for name, override in overrides.items():
        problems += _shape_problems(str(name), override, fields)

    if not problems:
        problems = _value_problems(recipe, overrides)
    if problems:
        raise UserError({"overrides": problems})


def _is_object_of_objects(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, dict) for item in value.values())


def _shape_problems(name: str, override: dict[str, Any], fields: dict[str, Field]) -> list[str]:
    """Fields and keys that do not exist, and bounds that do not narrow."""
    field = fields.get(name)
    if field is None or field.kind == "options":
        return [f"{name[:80]}: the recipe has no such field.{_hint(name, fields)}"]

    problems = []
    for key in override:
        if key not in KEYS:
            label = str(key)
            hint = _hint(label, KEYS)
            problems.append(f"unknown key {label[:40]!r}.{hint}")

    hidden = override.get("hidden", False)
    if not isinstance(hidden, bool):
        problems.append("hidden must be true or false.")
    if "fixed" in override and "default" in override:
        problems.append("fixed and default exclude each other.")

    for bound in BOUNDS:
        if bound not in override:
            continue

        problem = _bound_problem(field, override[bound])
        if problem:
            problems.append(f"{bound} {problem}")

    return [f"{name}: {problem}" for problem in problems]


def _bound_problem(field: Field, bound: Any) -> str:
    if field.kind not in NUMBER_KINDS:
        return "is for numbers only."
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        return "must be a number."

    if value_obstacle(field, bound):
        allowed = field.range_text()
        return f"may only narrow what the recipe allows ({allowed}); {plain(bound)} does not."

    return ""


def _value_problems(recipe: str, overrides: dict[str, Any]) -> list[str]:
    """Defaults and fixed values that the narrowed field would refuse, and rules over several
    fields."""
    method = TrainingMethod(recipe=recipe, overrides=overrides)
    problems = []

    for device in ("cpu", "cuda"):
        fields = method_fields(method, device=device)
        for name, override in overrides.items():
            problems += _default_problems(fields[name], override)

        if not problems:
            try:
                parameters_validate(method, _chosen_by_people(fields, overrides), device=device)
            except UserError as error:
                for name, texts in error.fields.items():
                    problems += [f"{name}: {text}" for text in texts]

    return list(dict.fromkeys(problems))


def _default_problems(field: Field, override: dict[str, Any]) -> list[str]:
    lowest = -math.inf if field.minimum is None else field.minimum
    highest = math.inf if field.maximum is None else field.maximum
    if lowest > highest:
        return [f"{field.name}: the minimum is above the maximum."]

    obstacle = value_obstacle(field, field.default)
    if not obstacle:
        return []

    hint = "" if "default" in override else " Give it a default."
    return [f"{field.name}: {obstacle}{hint}"]


def _chosen_by_people(fields: dict[str, Field], overrides: dict[str, Any]) -> dict[str, Any]:
    """What a train cannot do without and a method does not preset: a reward, for methods that learn
    from one."""
    if "rewards" in fields and "rewards" not in overrides:
        return {"rewards": [{"function": "numeric_answer"}]}

    return {}


def _hint(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]}?" if close else ""

"""What operators may choose for a method, checked before any train meets it."""

from __future__ import annotations

import difflib
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

    if not isinstance(overrides, dict) or not all(
        isinstance(chosen, dict) for chosen in overrides.values()
    ):
        raise UserError(
            {"overrides": ['Overrides are an object: {"field": {"default": …, "maximum": …}}.']}
        )

    plain_fields = method_fields(TrainingMethod(recipe=recipe, overrides={}))
    problems = [
        text
        for name, chosen in overrides.items()
        for text in _shape_problems(str(name), chosen, plain_fields)
    ]

    if not problems:
        problems = _value_problems(recipe, overrides)
    if problems:
        raise UserError({"overrides": problems})


def _shape_problems(name: str, chosen: dict[str, Any], fields: dict[str, Field]) -> list[str]:
    """Names that do not exist, and bounds that do not narrow."""
    if name not in fields or fields[name].kind == "options":
        return [f"{name[:80]}: the recipe has no such field.{_hint(name, fields)}"]

    field = fields[name]
    problems = [
        f"{name}: unknown key {key[:40]!r}.{_hint(key, KEYS)}"
        for key in map(str, chosen)
        if key not in KEYS
    ]

    if not isinstance(chosen.get("hidden", False), bool):
        problems.append(f"{name}: hidden must be true or false.")
    if "fixed" in chosen and "default" in chosen:
        problems.append(f"{name}: fixed and default exclude each other.")

    bounds = {key: _bound_problem(field, chosen[key]) for key in BOUNDS if key in chosen}
    return problems + [f"{name}: {key} {text}" for key, text in bounds.items() if text]


def _bound_problem(field: Field, bound: Any) -> str:
    if field.kind not in NUMBER_KINDS:
        return "is for numbers only."
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        return "must be a number."

    if value_obstacle(field, bound):
        return (
            f"may only narrow what the recipe allows ({field.range_text()}); {plain(bound)} "
            "does not."
        )

    return ""


def _value_problems(recipe: str, overrides: dict[str, Any]) -> list[str]:
    """Defaults and fixed values that the narrowed field would refuse, and rules over several
    fields."""
    method = TrainingMethod(recipe=recipe, overrides=overrides)
    problems = []

    for device in ("cpu", "cuda"):
        fields = method_fields(method, device=device)
        for name, chosen in overrides.items():
            field = fields[name]
            if (
                field.minimum is not None
                and field.maximum is not None
                and field.minimum > field.maximum
            ):
                problems.append(f"{name}: the minimum is above the maximum.")
            elif text := value_obstacle(field, field.default):
                problems.append(
                    f"{name}: {text}" + ("" if "default" in chosen else " Give it a default.")
                )

        if not problems:
            try:
                parameters_validate(method, _chosen_by_people(fields, overrides), device=device)
            except UserError as error:
                problems += [
                    f"{name}: {text}" for name, texts in error.fields.items() for text in texts
                ]

    return list(dict.fromkeys(problems))


def _chosen_by_people(fields: dict[str, Field], overrides: dict[str, Any]) -> dict[str, Any]:
    """What a train cannot do without and a method does not preset: a reward, for methods that learn
    from one."""
    if "rewards" in fields and "rewards" not in overrides:
        return {"rewards": [{"function": "numeric_answer"}]}

    return {}


def _hint(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]}?" if close else ""

"""Methods: what is offered, and whether given parameters can be trained with."""

from __future__ import annotations

import difflib
import math
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from core.errors import UserError
from engine.schema.registry import LOSS, RECIPES, Objective, more_options
from methods.builtin import BUILTIN
from methods.custom import parameters_check
from methods.models import TrainingMethod
from methods.rewards import choices_resolved
from methods.schema import NUMBER_KINDS, Field, method_fields, method_schema, plain

__all__ = [
    "method_defaults",
    "method_formats",
    "method_objective",
    "method_options",
    "method_schema",
    "methods_install",
    "parameters_validate",
    "parameters_warnings",
]


def methods_install() -> None:
    """Create the methods that come with the platform; what operators edited since is left as it
    is."""
    for values in BUILTIN:
        method, _ = TrainingMethod.objects.get_or_create(slug=values["slug"], defaults=values)
        method.version_keep()


def method_objective(method: TrainingMethod) -> Objective:
    """The metric by which trains of the method are judged."""
    return LOSS if method.is_custom else RECIPES[method.recipe].objective


def method_formats(method: TrainingMethod) -> tuple[str, ...]:
    """Slugs of the formats that the method can learn from."""
    return (
        tuple(method.program.get("formats", ()))
        if method.is_custom
        else RECIPES[method.recipe].formats
    )


def method_options(method: TrainingMethod) -> dict[str, dict[str, Any]]:
    """The trainer's other options, by name; none of a custom method."""
    return {} if method.is_custom else more_options(method.recipe)


def method_defaults(method: TrainingMethod, *, device: str = "cpu") -> dict[str, Any]:
    """Every parameter of the method with its default."""
    more: dict[str, Any] = {} if method.is_custom else {"more": {}}
    return {
        name: field.default for name, field in method_fields(method, device=device).items()
    } | more


def parameters_validate(
    method: TrainingMethod, parameters: dict[str, Any], *, device: str = "cpu"
) -> dict[str, Any]:
    """Every parameter resolved: what was given, and the method's defaults for the rest.

    Raises UserError {parameter: [message]}: unknown names, wrong types, values out of bounds, rules
    over several."""
    fields = method_fields(method, device=device)
    errors: dict[str, list[str]] = {}

    for name, value in parameters.items():
        if name not in fields:
            errors[str(name)[:80]] = [_unknown(str(name)[:80], fields)]
        elif message := value_obstacle(fields[name], value):
            errors[name] = [message]

    given = {
        name: _tidy(value)
        for name, value in parameters.items()
        if name in fields and name not in errors
    }

    if method.is_custom:
        if errors:
            raise UserError(errors)

        typed = {name: _number(fields[name], value) for name, value in given.items()}
        return parameters_check(method.parameters, typed)

    # Defaults that a rule would count as given stay out, so that max_steps alone does not clash
    # with epochs.
    base = {
        name: field.default
        for name, field in fields.items()
        if name not in given and name != "more"
    }

    if given.get("max_steps") is not None:
        base.pop("epochs", None)

    try:
        model = RECIPES[method.recipe].parameters.model_validate(
            base | given, context={"device": device}
        )
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            name, message = _message(detail, fields)
            if name not in errors:
                errors[name] = [message]
    except (OverflowError, RecursionError):
        errors.setdefault("", ["These parameters cannot be read."])

    if errors:
        raise UserError(errors)

    resolved = model.model_dump(mode="json")
    if "rewards" in resolved:
        resolved["rewards"] = choices_resolved(resolved["rewards"])

    return resolved


def _number(field: Field, value: Any) -> Any:
    """A number that a form sent as text."""
    if field.kind not in NUMBER_KINDS or isinstance(value, bool) or value is None:
        return value

    number = float(value)
    return int(number) if field.kind == "int" else number


def _tidy(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _unknown(name: str, fields: dict[str, Field]) -> str:
    close = difflib.get_close_matches(name, fields, n=1)
    return f"Unknown parameter {name!r}." + (f" Did you mean {close[0]}?" if close else "")


def value_obstacle(field: Field, value: Any) -> str:
    """What stands against `value` before pydantic sees it: kinds that it would bend, fixed and
    narrowed fields. Empty where nothing does."""
    if field.fixed and value != field.default:
        return f"{field.title} is fixed to {field.default} in this method."
    if field.kind not in NUMBER_KINDS or value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return _wants_number(field)

    try:
        number = float(value)
    except (ValueError, OverflowError):
        return _wants_number(field)

    if not math.isfinite(number):
        return f"{field.title} must be a finite number{_range(field)}."
    if field.kind == "int" and number != int(number):
        return f"{field.title} must be a whole number{_range(field)}; {plain(number)} is not."

    return _out_of_bounds(field, number)


def _out_of_bounds(field: Field, number: float) -> str:
    low = field.minimum is not None and number < field.minimum
    high = field.maximum is not None and number > field.maximum
    if low or high or (field.above is not None and number <= field.above):
        shown = plain(
            int(number) if number == int(number) and abs(number) < 1e15 else number, field.percent
        )
        return f"{field.title} must be {field.range_text()}; {shown} is not."

    return ""


def _range(field: Field) -> str:
    return f", {text}" if (text := field.range_text()) else ""


def _wants_number(field: Field) -> str:
    return (
        f"{field.title} must be a {'whole ' if field.kind == 'int' else ''}number{_range(field)}."
    )


def _message(detail: ErrorDetails, fields: dict[str, Field]) -> tuple[str, str]:
    """(field, what to do about it) for one of pydantic's errors."""
    context = detail.get("ctx", {})

    if detail["type"] == "rule":
        return str(context["field"]), str(context["message"])

    name = str(detail["loc"][0]) if detail["loc"] else ""
    field = fields.get(name)
    if field is None:
        return name, detail["msg"]
    if field.kind in NUMBER_KINDS:
        return name, _wants_number(field)
    if field.kind == "bool":
        return name, f"{field.title} must be true or false."

    if field.kind == "choice":
        return (
            name,
            f"{field.title} must be one of {', '.join(value for value, _ in field.choices)}.",
        )

    if field.kind == "rewards":
        return (
            name,
            f"{field.title} must be a list of objects with function, weight and parameters: "
            f"{detail['msg']}.",
        )

    if field.kind == "modules":
        return (
            name,
            f"{field.title} must be all-linear, or a list of module names of the base model.",
        )

    return name, f"{field.title} must be an object of option names and values."


def parameters_warnings(method: TrainingMethod, parameters: dict[str, Any]) -> dict[str, str]:
    """{field: text} for active numbers outside their typical range. They do not stop anything."""
    warnings = {}
    for name, field in method_fields(method).items():
        value = parameters.get(name)
        if field.typical is None or not isinstance(value, int | float):
            continue
        if field.hidden or not field.is_active(parameters):
            continue

        low, high = field.typical
        if not low <= value <= high and value != field.default:
            typical = f"{plain(low, field.percent)} to {plain(high, field.percent)}"
            warnings[name] = f"Outside the typical range of {typical}."

    return warnings

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


# What a value of each kind has to be, in a sentence.
REQUIREMENTS = {
    "bool": "true or false",
    "modules": "all-linear, or a list of module names of the base model",
}


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
    if method.is_custom:
        return tuple(method.program.get("formats", ()))

    return RECIPES[method.recipe].formats


def method_options(method: TrainingMethod) -> dict[str, dict[str, Any]]:
    """The trainer's other options, by name; none of a custom method."""
    return {} if method.is_custom else more_options(method.recipe)


def method_defaults(method: TrainingMethod, *, device: str = "cpu") -> dict[str, Any]:
    """Every parameter of the method with its default."""
    fields = method_fields(method, device=device)
    defaults = {name: field.default for name, field in fields.items()}
    if not method.is_custom:
        defaults["more"] = {}

    return defaults


def parameters_validate(
    method: TrainingMethod, parameters: dict[str, Any], *, device: str = "cpu"
) -> dict[str, Any]:
    """All parameters of a train: those that were given, and the method's defaults for the rest.

    Raises UserError {parameter: [message]} for unknown names, wrong types, values out of bounds, and
    rules over several parameters."""
    fields = method_fields(method, device=device)
    errors: dict[str, list[str]] = {}
    chosen: dict[str, Any] = {}

    for name, value in parameters.items():
        if name not in fields:
            label = str(name)[:80]
            errors[label] = [_unknown(label, fields)]
        elif message := value_obstacle(fields[name], value):
            errors[name] = [message]
        else:
            chosen[name] = value.strip() if isinstance(value, str) else value

    if not method.is_custom:
        return _validated_by_recipe(method, fields, chosen, errors, device)

    if errors:
        raise UserError(errors)

    typed = {name: _number(fields[name], value) for name, value in chosen.items()}
    return parameters_check(method.parameters, typed)


def _validated_by_recipe(
    method: TrainingMethod,
    fields: dict[str, Field],
    chosen: dict[str, Any],
    errors: dict[str, list[str]],
    device: str,
) -> dict[str, Any]:
    """`chosen` with the defaults, as the recipe's own class has them. Adds its errors to `errors`
    and raises them all."""
    values = {name: field.default for name, field in fields.items() if name != "more"}
    if chosen.get("max_steps") is not None:
        # A default that a rule would count as given, so that max_steps clashed with it.
        values.pop("epochs", None)

    values |= chosen
    try:
        model = RECIPES[method.recipe].parameters.model_validate(values, context={"device": device})
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            name, message = _message(detail, fields)
            errors.setdefault(name, [message])
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


def _unknown(name: str, fields: dict[str, Field]) -> str:
    message = f"Unknown parameter {name!r}."
    close = difflib.get_close_matches(name, fields, n=1)
    if close:
        message += f" Did you mean {close[0]}?"

    return message


def value_obstacle(field: Field, value: Any) -> str:
    """Why `value` is refused before pydantic sees it, "" where it is not: types that pydantic would
    convert, values of fixed fields, and bounds that operators narrowed."""
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
    if field.kind == "int" and not number.is_integer():
        return f"{field.title} must be a whole number{_range(field)}; {plain(number)} is not."

    return _out_of_bounds(field, number)


def _out_of_bounds(field: Field, number: float) -> str:
    lowest = -math.inf if field.minimum is None else field.minimum
    highest = math.inf if field.maximum is None else field.maximum
    above = -math.inf if field.above is None else field.above
    if lowest <= number <= highest and number > above:
        return ""

    # 5 rather than 5.0, for numbers that a float holds exactly.
    is_whole = number.is_integer() and abs(number) < 1e15
    shown = plain(int(number) if is_whole else number, field.percent)
    allowed = field.range_text()

    return f"{field.title} must be {allowed}; {shown} is not."


def _range(field: Field) -> str:
    text = field.range_text()
    return f", {text}" if text else ""


def _wants_number(field: Field) -> str:
    kind = "whole number" if field.kind == "int" else "number"
    return f"{field.title} must be a {kind}{_range(field)}."


def _message(detail: ErrorDetails, fields: dict[str, Field]) -> tuple[str, str]:
    """(field, what to do about it) for one of pydantic's errors."""
    if detail["type"] == "rule":
        context = detail["ctx"]
        return str(context["field"]), str(context["message"])

    name = str(detail["loc"][0]) if detail["loc"] else ""
    field = fields.get(name)
    if field is None:
        return name, detail["msg"]

    if field.kind in NUMBER_KINDS:
        return name, _wants_number(field)

    if field.kind == "rewards":
        requirement = f"a list of objects with function, weight and parameters: {detail['msg']}"
    elif field.kind == "choice":
        values = ", ".join(value for value, _ in field.choices)
        requirement = f"one of {values}"
    else:
        requirement = REQUIREMENTS.get(field.kind, "an object of option names and values")

    return name, f"{field.title} must be {requirement}."


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
        if value == field.default or low <= value <= high:
            continue

        lowest = plain(low, field.percent)
        highest = plain(high, field.percent)
        warnings[name] = f"Outside the typical range of {lowest} to {highest}."

    return warnings

"""Fields of requests that ask a model: types and bounds, refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from openai_api.errors import ApiProblem

# Larger numbers are not written out in refusals.
FAR = 1e30

# Raises ApiProblem for a value that the field cannot have: check(value, name).
Check = Callable[[Any, str], None]


@dataclass(frozen=True)
class Field:
    """needs: an ability of engine.serving.order.Ready, without which a model cannot do it; "" for
    what all can."""

    check: Check
    needs: str = ""


def number(least: float, most: float) -> Check:
    def check(value: Any, name: str) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # Whole numbers may be too large to be asked.
        if not is_number or (isinstance(value, float) and not math.isfinite(value)):
            raise wrong_type(name, "a number", value)
        if not least <= value <= most:
            raise out_of_bounds(name, value, least, most)

    return check


def integer(least: int, most: int) -> Check:
    def check(value: Any, name: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise wrong_type(name, "an integer", value)
        if not least <= value <= most:
            raise out_of_bounds(name, value, least, most)

    return check


def boolean(value: Any, name: str) -> None:
    if not isinstance(value, bool):
        raise wrong_type(name, "true or false", value)


def text(value: Any, name: str) -> None:
    if not isinstance(value, str):
        raise wrong_type(name, "a string", value)


def mapping(value: Any, name: str) -> None:
    if not isinstance(value, dict):
        raise wrong_type(name, "an object", value)


def mapping_of_texts(value: Any, name: str) -> None:
    mapping(value, name)
    for key, item in value.items():
        text(item, f"{name}.{key[:40]}")


def texts(most: int) -> Check:
    """A string, or a list of at most `most`."""

    def check(value: Any, name: str) -> None:
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) for item in items):
            raise wrong_type(name, "a string or a list of strings", value)
        if len(items) > most:
            raise ApiProblem(
                f"'{name}' has {len(items)} entries; the most is {most}.",
                param=name,
                code="array_above_max_length",
            )

    return check


def wrong_type(name: str, wanted: str, value: Any) -> ApiProblem:
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    got = kinds.get(type(value), "a number" if value is not None else "null")
    return ApiProblem(
        f"Invalid type for '{name}': expected {wanted}, but got {got} instead.",
        param=name,
        code="invalid_type",
    )


def out_of_bounds(name: str, value: float, least: float, most: float) -> ApiProblem:
    is_below = value < least
    bound = f"at least {least:g}" if is_below else f"at most {most:g}"
    side = "below_min" if is_below else "above_max"
    got = f"{value:g}" if abs(value) < FAR else "a number far beyond it"
    return ApiProblem(
        f"Invalid '{name}': expected {bound}, but got {got} instead.",
        param=name,
        code=f"integer_{side}_value" if isinstance(value, int) else f"decimal_{side}_value",
    )


def missing_field(name: str) -> ApiProblem:
    return ApiProblem(
        f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter"
    )


def not_supported(name: str, why: str = "") -> ApiProblem:
    return ApiProblem(
        f"'{name}' is not supported here{why}.", param=name, code="unsupported_parameter"
    )


def fields_take(body: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """The values of `fields` that the request has, checked; null is as if it were not there."""
    taken = {}
    for name, field in fields.items():
        value = body.get(name)
        if value is None:
            continue

        field.check(value, name)
        taken[name] = value

    return taken


def refuse(body: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Raises ApiProblem where the request has one of `names`."""
    for name in names:
        if body.get(name):
            raise not_supported(name)


def model_name(body: Mapping[str, Any]) -> str:
    name = body.get("model")
    if name is None or name == "":
        raise missing_field("model")

    text(name, "model")
    return str(name)

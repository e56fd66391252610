"""What differs between the trains of a sweep: values or a range for each of some settings, and the
combinations of them.

A setting that has no effect beside the others of a combination (methods.schema.Field.is_active) is
no part of it, so that no two combinations stand for the same train."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from core.errors import UserError
from core.text import counted
from methods.schema import ALL_LINEAR, Field
from methods.services import value_obstacle

NUMBERS = ("int", "float")
SWEPT_KINDS = (*NUMBERS, "bool", "choice", "text", "modules")
# They decide how a train is measured, kept or run, and not how it learns.
NEVER_SWEPT = frozenset(
    {
        "evaluation_every",
        "devices",
        "strategy",
        "offload",
        "time_limit_minutes",
        "on_out_of_memory",
        "on_trouble",
        "on_reward_error",
        "sample_prompts",
        "sample_max_tokens",
        "save_strategy",
        "save_every",
        "save_total_limit",
        "logging_steps",
    }
)
SCALES = ("linear", "log")
FEWEST_VALUES, MOST_VALUES = 2, 50
MOST_AXES = 20
# Beyond so many no combination is looked at: the product is told.
MOST_ENUMERATED = 20_000

Values = dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """One setting that differs: either `values`, or all from `low` to `high`."""

    field: Field
    values: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    @property
    def name(self) -> str:
        return self.field.name

    @property
    def is_range(self) -> bool:
        return not self.values

    @property
    def is_whole(self) -> bool:
        return self.field.kind == "int"

    @property
    def is_number(self) -> bool:
        return self.field.kind in NUMBERS

    @property
    def count(self) -> int | None:
        """How many values there are; None for a range of real numbers."""
        if self.values:
            return len(self.values)

        return int(self.high) - int(self.low) + 1 if self.is_whole else None

    def listed(self) -> Iterable[Any]:
        """All values. Not for a range of real numbers."""
        return self.values or range(int(self.low), int(self.high) + 1)

    def edges(self) -> tuple[Any, ...]:
        """Values that stand for all of them: each, or both ends of a range."""
        return self.values or (self.low, self.high)

    @property
    def text(self) -> str:
        """2e-5, 1e-4, 5e-4; or 2e-5 to 5e-4, logarithmic."""
        if self.values:
            return ", ".join(self.field.shown(value) for value in self.values)

        scale = ", logarithmic" if self.log else ""
        return f"{self.field.shown(self.low)} to {self.field.shown(self.high)}{scale}"

    def as_dict(self) -> dict[str, Any]:
        """As Sweep.space keeps it."""
        if self.values:
            return {"values": list(self.values)}

        return {"low": self.low, "high": self.high, "scale": "log" if self.log else "linear"}


def sweep_obstacle(field: Field) -> str:
    """Why no sweep can change this setting, or nothing."""
    if field.hidden or field.fixed:
        return f"{field.title} is fixed by this method."
    if field.name in NEVER_SWEPT or field.kind not in SWEPT_KINDS:
        return f"{field.title} is the same for all trains of a sweep."

    return ""


def axes_read(fields: dict[str, Field], space: dict[str, Any]) -> list[Axis]:
    """The axes of `space` (see Sweep.space), each behind those that decide whether it has an
    effect. Raises UserError {setting: [text]}."""
    errors: dict[str, list[str]] = {}
    axes: list[Axis] = []

    for name, entry in space.items():
        try:
            axes.append(_axis_read(fields, name, entry))
        except UserError as refusal:
            errors[str(name)[:80]] = [refusal.message]

    if not space:
        errors["space"] = ["Give at least one setting several values."]
    if len(space) > MOST_AXES:
        errors["space"] = [f"At most {MOST_AXES} settings can differ."]
    if errors:
        raise UserError(errors)

    return _in_order(axes, fields)


def axes_shown(fields: dict[str, Field], space: dict[str, Any]) -> list[Axis]:
    """The axes of a space that was accepted once, for pages: nothing is checked, and a setting that
    the method has no more is shown by its name."""
    known = {
        name: fields.get(name) or _plain_field(name, entry) for name, entry in sorted(space.items())
    }
    axes = [_axis_shown(known[name], entry) for name, entry in sorted(space.items())]
    return _in_order(axes, fields | known)


def _plain_field(name: str, entry: dict[str, Any]) -> Field:
    values = entry.get("values", [])
    is_number = all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)
    return Field(name, name, "", "float" if is_number else "text", None)


def _axis_shown(field: Field, entry: dict[str, Any]) -> Axis:
    if "values" in entry:
        return Axis(field, tuple(entry["values"]))

    return Axis(field, low=entry["low"], high=entry["high"], log=entry["scale"] == "log")


def _axis_read(fields: dict[str, Field], name: str, entry: Any) -> Axis:
    field = fields.get(name)
    if field is None:
        raise UserError(f"Unknown parameter {str(name)[:80]!r}.")
    if reason := sweep_obstacle(field):
        raise UserError(reason)
    if not isinstance(entry, dict):
        raise UserError("Give an object with “values”, or with “low” and “high”.")

    has_values = "values" in entry
    known = {"values"} if has_values else {"low", "high", "scale"}
    if unknown := sorted(set(map(str, entry)) - known):
        raise UserError(f"Give “values”, or “low”, “high” and “scale”; not {unknown[0][:80]!r}.")

    return _of_values(field, entry["values"]) if has_values else _of_range(field, entry)


def _of_values(field: Field, given: Any) -> Axis:
    if not isinstance(given, list) or not FEWEST_VALUES <= len(given) <= MOST_VALUES:
        raise UserError(
            f"{field.title}: give {FEWEST_VALUES} to {MOST_VALUES} values, or set the only one as "
            "in any other train."
        )

    values = [_value_read(field, value) for value in given]
    seen: set[str] = set()
    for value in values:
        key = values_key({"": value})
        if key in seen:
            raise UserError(f"{field.title}: {field.shown(value)} stands here twice.")

        seen.add(key)

    return Axis(field, tuple(values))


def _value_read(field: Field, value: Any) -> Any:
    """`value` as the axis keeps it. Raises UserError for one that this setting cannot have."""
    if obstacle := value_obstacle(field, value):
        raise UserError(obstacle)
    if value is None and not field.nullable:
        raise UserError(f"{field.title}: a value is missing.")

    wrong = f"{field.title}: {str(value)[:60]!r} is not one of its values."
    if value is None:
        return None
    if field.kind in NUMBERS:
        return int(float(value)) if field.kind == "int" else float(value)
    if field.kind == "bool" and not isinstance(value, bool):
        raise UserError(wrong)
    if field.kind == "choice" and not _is_choice(field, value):
        raise UserError(wrong)
    if field.kind == "text" and not isinstance(value, str):
        raise UserError(wrong)
    if field.kind == "modules":
        return _modules_read(field, value, wrong)

    return value.strip() if isinstance(value, str) else value


def _is_choice(field: Field, value: Any) -> bool:
    # A list cannot be looked up.
    return isinstance(value, str | int | float) and value in dict(field.choices)


def _modules_read(field: Field, value: Any, wrong: str) -> Any:
    if value == ALL_LINEAR:
        return value

    is_list = isinstance(value, list) and value and all(isinstance(name, str) for name in value)
    if not is_list:
        raise UserError(wrong)

    return [name.strip() for name in value]


def _of_range(field: Field, entry: dict[str, Any]) -> Axis:
    if field.kind not in NUMBERS:
        raise UserError(f"{field.title} is no number, so it has no range. Give values.")

    scale = entry.get("scale", "linear")
    if scale not in SCALES:
        raise UserError(f"{field.title}: the scale is one of {', '.join(SCALES)}.")

    ends = [entry.get("low"), entry.get("high")]
    if any(end is None or end == "" for end in ends):
        raise UserError(f"{field.title}: give both ends of the range.")

    low, high = (_value_read(field, end) for end in ends)
    if not low < high:
        raise UserError(f"{field.title}: the range ends where it begins, or before. Swap the ends.")
    if scale == "log" and low <= 0:
        raise UserError(f"{field.title}: a logarithmic range begins above 0.")

    return Axis(field, low=low, high=high, log=scale == "log")


def _in_order(axes: list[Axis], fields: dict[str, Field]) -> list[Axis]:
    """In the order of the form, each behind the axes that switch it."""
    place = {name: number for number, name in enumerate(fields)}
    left = sorted(axes, key=lambda axis: place[axis.name])
    ordered: list[Axis] = []

    while left:
        names = {axis.name for axis in left}
        ready = [axis for axis in left if not names & set(axis.field.active_when) - {axis.name}]
        # A circle of conditions, which no method has, would otherwise never end.
        first = (ready or left)[0]
        ordered.append(first)
        left.remove(first)

    return ordered


@dataclass(frozen=True)
class Space:
    """The axes over the values that all trains share. fixed: every setting's effective value
    beside them."""

    axes: tuple[Axis, ...]
    fixed: Values

    @property
    def product(self) -> int | None:
        """How many combinations there are at most; None with a range of real numbers."""
        counts = [axis.count for axis in self.axes]
        return None if None in counts else math.prod(count or 1 for count in counts)

    def is_active(self, axis: Axis, chosen: Values) -> bool:
        """Whether the axis has an effect beside what was chosen before it."""
        return axis.field.is_active(self.fixed | chosen)

    def kept(self, chosen: Values) -> Values:
        """`chosen` without what has no effect."""
        values: Values = {}
        for axis in self.axes:
            if axis.name in chosen and self.is_active(axis, values):
                values[axis.name] = chosen[axis.name]

        return values

    def combinations(self) -> Iterator[Values]:
        """Every different one, in the order of the form. Not with a range of real numbers."""
        seen: set[str] = set()
        names = [axis.name for axis in self.axes]
        for choice in itertools.product(*(axis.listed() for axis in self.axes)):
            values = self.kept(dict(zip(names, choice, strict=True)))
            key = values_key(values)
            if key not in seen:
                seen.add(key)
                yield values

    def count(self) -> int | None:
        """How many different combinations there are; the product where that is beyond all looking;
        None with a range of real numbers."""
        product = self.product
        if product is None or product > MOST_ENUMERATED:
            return product

        return sum(1 for _ in self.combinations())

    def without_effect(self) -> list[Axis]:
        """Axes that no value of the others gives an effect."""
        by_name = {axis.name: axis for axis in self.axes}
        idle = []
        for axis in self.axes:
            for other, wanted in axis.field.active_when.items():
                alone = replace(axis.field, active_when={other: wanted})
                parent = by_name.get(other)
                possible = parent.edges() if parent else (self.fixed.get(other),)
                if not any(alone.is_active({other: value}) for value in possible):
                    idle.append(axis)
                    break

        return idle


def space_of(fields: dict[str, Field], space: dict[str, Any], parameters: Values) -> Space:
    """parameters: what was given for all trains. Raises UserError {setting: [text]}."""
    axes = axes_read(fields, space)
    swept = {axis.name for axis in axes}
    defaults = {name: field.default for name, field in fields.items()}
    shared = {name: value for name, value in parameters.items() if name not in swept}
    found = Space(tuple(axes), defaults | shared)

    if idle := found.without_effect():
        text = "{} has no effect beside the other settings, so its values would all be the same."
        raise UserError({axis.name: [text.format(axis.field.title)] for axis in idle})

    return found


def values_key(values: Values) -> str:
    """The same for equal combinations: 1 and 1.0 are equal, True and 1 are not."""

    def plain(value: Any) -> Any:
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    return json.dumps({name: plain(value) for name, value in values.items()}, sort_keys=True)


def values_text(axes: Iterable[Axis], values: Values) -> str:
    """learning rate 2e-4, rank 8"""
    parts = [
        f"{axis.field.title.lower()} {axis.field.shown(values[axis.name])}"
        for axis in axes
        if axis.name in values
    ]
    return ", ".join(parts)


def trains_text(count: int) -> str:
    return counted(count, "train")

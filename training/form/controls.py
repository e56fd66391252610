"""The new-train form: a method's parameters as text in controls, and what was typed as parameters
again.

Nothing here knows a method: titles, bounds and groups come from methods.schema. Whether values are
good is decided by training.train.services.train_create and training.form.preview alone; what cannot be read is
handed on as it was typed, so that their message comes back beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field as made
from itertools import zip_longest
from typing import Any

from django.http import QueryDict

from core.requests import integer_of
from engine.rewards.registry import CUSTOM_PREFIX, REWARDS
from methods.field_text import number_text, number_value, value_text
from methods.models import RewardFunction
from methods.rewards import function_of, title_of
from methods.schema import ALL_LINEAR, Field, option_text, plain, reward_fields


def option_value(text: str) -> Any:
    """JSON where it is JSON (numbers, true, lists), else the text as typed."""
    try:
        return json.loads(text, parse_constant=lambda name: name)
    except (ValueError, RecursionError):
        return text


def parameters_read(fields: dict[str, Field], data: QueryDict) -> dict[str, Any]:
    """Every visible parameter as it was typed; one without effect beside the others is left to its
    default."""
    found: dict[str, Any] = {}
    for name, item in fields.items():
        if item.fixed or item.hidden:
            continue

        if item.kind == "bool":
            found[name] = name in data
        elif item.kind == "options":
            found[name] = options_read(data.getlist(f"{name}-name"), data.getlist(f"{name}-value"))
        elif item.kind == "rewards":
            found[name] = rewards_read(name, data)
        elif item.kind == "modules":
            chosen = data.get(name, ALL_LINEAR)
            found[name] = data.getlist(f"{name}-names") if chosen == "choose" else chosen
        elif item.kind == "choice":
            found[name] = data.get(name, item.default)
        elif item.kind == "text":
            found[name] = data.get(name, item.default).replace("\r\n", "\n")
        elif name in data:
            found[name] = number_value(item, data.get(name, ""))

    effective = {name: item.default for name, item in fields.items()} | found
    return {name: value for name, value in found.items() if fields[name].is_active(effective)}


def rewards_read(name: str, data: QueryDict) -> list[dict[str, Any]]:
    """The chosen rewards: a row for each `name`-key, its values under `name`-KEY-…; one without
    function is none."""
    rows = []
    for key in data.getlist(f"{name}-key"):
        prefix = f"{name}-{key}-"
        function = data.get(f"{prefix}function", "")
        if not function:
            continue

        weight = Field("weight", "Weight", "", "float", 1.0)
        parameters = {
            item.name: reward_value(item, f"{prefix}p-{item.name}", data)
            for item in reward_fields(function).values()
        }

        rows.append(
            {
                "function": function,
                "weight": number_value(weight, data.get(f"{prefix}weight", "1")),
                "parameters": {
                    item: value for item, value in parameters.items() if value is not None
                },
            }
        )

    return rows


def reward_value(item: Field, name: str, data: QueryDict) -> Any:
    """A parameter of a reward as it was typed, None where it was left blank and must not be
    given."""
    if item.kind == "bool":
        return name in data
    if item.kind in ("int", "float"):
        return number_value(item, text) if (text := data.get(name, "")).strip() else None
    if item.kind == "reward_model":
        return integer_of(data.get(name, ""))

    # Browsers send lines as CR LF.
    return data.get(name, item.default).replace("\r\n", "\n")


@dataclass
class RewardRow:
    """A chosen reward as the form shows it: `fields` with what their controls hold."""

    key: str
    function: str
    title: str
    help: str
    weight: str
    fields: list[tuple[Field, Any]]


def reward_rows(choices: list[dict[str, Any]]) -> list[RewardRow]:
    return [_reward_row(str(number), choice) for number, choice in enumerate(choices)]


def reward_templates() -> list[RewardRow]:
    """An empty row of each function, for the menu."""
    own = [f"{CUSTOM_PREFIX}{function.slug}" for function in RewardFunction.objects.offered()]
    return [
        _reward_row("KEY", {"function": slug, "weight": 1.0, "parameters": {}})
        for slug in (*REWARDS, *own)
    ]


def _reward_row(key: str, choice: dict[str, Any]) -> RewardRow:
    function, given = str(choice.get("function", "")), choice.get("parameters") or {}
    kind, own, weight = REWARDS.get(function), function_of(function), choice.get("weight", 1.0)
    return RewardRow(
        key,
        function,
        title_of(function),
        kind.help if kind else own.description if own else "It is not registered here.",
        number_text(weight) if isinstance(weight, int | float) else str(weight),
        [
            (item, value if item.kind in ("bool", "choice", "text") else value_text(item, value))
            for item in reward_fields(function).values()
            for value in (given.get(item.name, item.default),)
        ],
    )


def options_read(names: Iterable[str], values: Iterable[str]) -> dict[str, Any]:
    """Name and value rows as an object. Rows without a name are passed over; of twins the last
    counts."""
    pairs = zip_longest(names, values, fillvalue="")
    return {name.strip(): option_value(value.strip()) for name, value in pairs if name.strip()}


@dataclass
class Control:
    """A row of the form: `value` is what the control holds, `original` what the copied train had
    (in words)."""

    field: Field
    value: Any
    default: str
    errors: list[str] = made(default_factory=list)
    warning: str = ""
    fixes: list[dict[str, Any]] = made(default_factory=list)
    original: str = ""
    original_text: str = ""
    is_copy: bool = False
    active: bool = True
    unavailable: str = ""
    rewards: list[RewardRow] = made(default_factory=list)
    options: list[tuple[str, str]] = made(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether the value differs from the default."""
        return not same(self.text, self.default)

    @property
    def differs(self) -> bool:
        """Whether the value differs from that of the copied train."""
        return self.is_copy and not same(self.text, self.original_text)

    @property
    def text(self) -> str:
        return self.value if isinstance(self.value, str) else value_text(self.field, self.value)

    @property
    def typical(self) -> str:
        if self.field.typical is None:
            return ""

        low, high = self.field.typical
        return f"Typical {plain(low, self.field.percent)} to {plain(high, self.field.percent)}."


def same(one: str, other: str) -> bool:
    """Whether two texts hold the same value: 1 and 1.0 do."""
    if one == other:
        return True

    try:
        return float(one) == float(other)
    except ValueError:
        return False


@dataclass
class Group:
    """Fields under one heading; the advanced ones of all groups stand together in the last,
    folded."""

    title: str
    controls: list[Control]
    folded: bool = False

    @property
    def changed_count(self) -> int:
        return sum(control.changed for control in self.controls)

    @property
    def error_count(self) -> int:
        return sum(bool(control.errors) for control in self.controls)

    @property
    def summary(self) -> str:
        """What a folded group holds, in a line."""
        titles = ", ".join(control.field.title.lower() for control in self.controls[:4])
        return f"{titles} …" if len(self.controls) > 4 else titles


def controls_make(
    fields: dict[str, Field],
    values: dict[str, Any],
    *,
    original: dict[str, Any] | None,
    modules: list[str],
    device: str = "cpu",
) -> dict[str, Control]:
    """A control for each field that is shown. `modules` are the layers that the chosen base model
    has."""
    effective = {name: item.default for name, item in fields.items()} | values
    controls = {}

    for name, item in fields.items():
        if item.fixed or item.hidden:
            continue

        nothing: Any = {} if item.kind == "options" else None
        default = nothing if item.default is None else item.default
        value = values.get(name, default)
        control = Control(item, value, value_text(item, default), active=item.is_active(effective))

        if original is not None and name in original:
            control.is_copy = True
            control.original = item.shown(original[name])
            control.original_text = value_text(item, original[name])

        if item.needs == "cuda" and device == "cpu" and same(control.text, control.default):
            control.unavailable = "Needs a GPU, and this worker has none."
        if item.kind == "rewards":
            control.rewards = reward_rows(value if isinstance(value, list) else [])

        if item.kind == "modules":
            chosen = value if isinstance(value, list) else []
            control.options = [
                (module, "on" if module in chosen else "")
                for module in [*modules, *chosen_beside(chosen, modules)]
            ]
        elif item.kind == "options":
            control.options = [(option, option_text(content)) for option, content in value.items()]

        controls[name] = control

    return controls


def chosen_beside(chosen: list[str], modules: list[str]) -> list[str]:
    """Names that were chosen and that the base model does not have: shown, so that they can be
    taken away."""
    return [name for name in chosen if name not in modules]


def groups_make(controls: dict[str, Control]) -> list[Group]:
    shown: dict[str, Group] = {}
    folded = Group("More options", [], folded=True)
    for control in controls.values():
        if control.field.advanced:
            folded.controls.append(control)
        else:
            shown.setdefault(control.field.group, Group(control.field.group, [])).controls.append(
                control
            )

    return [*shown.values(), folded] if folded.controls else list(shown.values())

"""The new-train form: a method's parameters as text in controls, and what was typed as parameters
again.

Nothing here knows a method: titles, bounds and groups come from methods.schema. Whether values are
good is decided by training.train.services.train_check alone; what cannot be read is handed on as it
was typed, so that its message comes back beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from itertools import zip_longest
from typing import Any

from django.http import QueryDict

from core.requests import integer_of
from engine.rewards.registry import CUSTOM_PREFIX, REWARDS
from methods.field_text import number_text, number_value, value_text
from methods.models import RewardFunction
from methods.rewards import function_of, title_of
from methods.schema import ALL_LINEAR, Field, option_text, plain, reward_fields

# {setting: values that a sweep tries beside that of its control}.
Others = Mapping[str, Sequence[Any]]

# The weight of a reward, which no recipe describes.
WEIGHT = Field("weight", "Weight", "", "float", 1.0)


def option_value(text: str) -> Any:
    """JSON where it is JSON (numbers, true, lists), else the text as typed."""
    try:
        return json.loads(text, parse_constant=lambda name: name)
    except (ValueError, RecursionError):
        return text


def parameters_read(
    fields: dict[str, Field], data: QueryDict, others: Others | None = None
) -> dict[str, Any]:
    """Every visible parameter as it was typed; one without effect beside the others is left to its
    default. others: further values of settings, one of which may give it an effect."""
    typed: dict[str, Any] = {}

    for name, item in fields.items():
        if item.fixed or item.hidden:
            continue

        if item.kind == "bool":
            typed[name] = name in data
        elif item.kind == "options":
            names = data.getlist(f"{name}-name")
            values = data.getlist(f"{name}-value")
            typed[name] = options_read(names, values)
        elif item.kind == "rewards":
            typed[name] = rewards_read(name, data)
        elif item.kind == "modules":
            typed[name] = modules_read(name, data)
        elif item.kind == "choice":
            typed[name] = data.get(name, item.default)
        elif item.kind == "text":
            typed[name] = text_read(data.get(name, item.default))
        elif name in data:
            typed[name] = number_value(item, data.get(name, ""))

    effective = defaults_of(fields) | typed
    return {
        name: value
        for name, value in typed.items()
        if fields[name].may_be_active(effective, others or {})
    }


def defaults_of(fields: dict[str, Field]) -> dict[str, Any]:
    return {name: item.default for name, item in fields.items()}


def modules_read(name: str, data: QueryDict) -> Any:
    """All linear layers, or the names that were ticked."""
    choice = data.get(name, ALL_LINEAR)
    return data.getlist(f"{name}-names") if choice == "choose" else choice


def text_read(text: str) -> str:
    """Browsers send line ends as CR LF."""
    return text.replace("\r\n", "\n")


def rewards_read(name: str, data: QueryDict) -> list[dict[str, Any]]:
    """The chosen rewards: a row for each `name`-key, its values under `name`-KEY-…; a row without a
    function is passed over."""
    rows = []

    for key in data.getlist(f"{name}-key"):
        prefix = f"{name}-{key}-"
        function = data.get(f"{prefix}function", "")
        if not function:
            continue

        parameters = {}
        for item in reward_fields(function).values():
            value = reward_value(item, f"{prefix}p-{item.name}", data)
            if value is not None:
                parameters[item.name] = value

        rows.append(
            {
                "function": function,
                "weight": number_value(WEIGHT, data.get(f"{prefix}weight", "1")),
                "parameters": parameters,
            }
        )

    return rows


def reward_value(item: Field, name: str, data: QueryDict) -> Any:
    """A parameter of a reward as it was typed, None where it was left blank and must not be
    given."""
    if item.kind == "bool":
        return name in data
    if item.kind == "reward_model":
        return integer_of(data.get(name, ""))

    if item.kind in ("int", "float"):
        text = data.get(name, "")
        return number_value(item, text) if text.strip() else None

    return text_read(data.get(name, item.default))


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
    """`choice`: an entry of the parameter "rewards", perhaps as somebody mistyped it."""
    function = str(choice.get("function", ""))
    parameters = choice.get("parameters") or {}
    weight = choice.get("weight", 1.0)
    fields = []

    for item in reward_fields(function).values():
        value = parameters.get(item.name, item.default)
        if item.kind not in ("bool", "choice", "text"):
            value = value_text(item, value)

        fields.append((item, value))

    return RewardRow(
        key=key,
        function=function,
        title=title_of(function),
        help=_reward_help(function),
        weight=number_text(weight) if isinstance(weight, int | float) else str(weight),
        fields=fields,
    )


def _reward_help(function: str) -> str:
    if function in REWARDS:
        return REWARDS[function].help

    registered = function_of(function)
    return registered.description if registered is not None else "It is not registered here."


def options_read(names: Iterable[str], values: Iterable[str]) -> dict[str, Any]:
    """Rows of name and value as an object. Rows without a name are passed over; of two with the
    same name the last counts."""
    options = {}
    for name, value in zip_longest(names, values, fillvalue=""):
        if name.strip():
            options[name.strip()] = option_value(value.strip())

    return options


@dataclass
class Control:
    """A row of the form: `value` is what the control holds, `original` what the copied train had
    (in words)."""

    field: Field
    value: Any
    default: str
    errors: list[str] = dataclass_field(default_factory=list)
    warning: str = ""
    fixes: list[dict[str, Any]] = dataclass_field(default_factory=list)
    original: str = ""
    original_text: str = ""
    is_copy: bool = False
    active: bool = True
    unavailable: str = ""
    rewards: list[RewardRow] = dataclass_field(default_factory=list)
    options: list[tuple[str, str]] = dataclass_field(default_factory=list)

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
        """The value as the control holds it."""
        if isinstance(self.value, str):
            return self.value

        return value_text(self.field, self.value)

    @property
    def typical(self) -> str:
        if self.field.typical is None:
            return ""

        low, high = (plain(edge, self.field.percent) for edge in self.field.typical)
        return f"Typical {low} to {high}."


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
    devices: int = 1,
    others: Others | None = None,
) -> dict[str, Control]:
    """A control for each field that is shown. others: as parameters_read takes them.

    `original`: the parameters of the copied train. `modules`: the layers that the chosen base model
    has. device: "cpu" or "cuda", what the worker has. devices: of the largest machine; what only
    several can do is shown where there are several, or where it was asked for."""
    effective = defaults_of(fields) | values
    controls = {}

    for name, item in fields.items():
        if item.fixed or item.hidden:
            continue

        default = item.default
        if default is None and item.kind == "options":
            default = {}

        if item.needs == "devices" and devices < 2 and not _asks_for_several(effective):
            continue

        control = Control(
            field=item,
            value=values.get(name, default),
            default=value_text(item, default),
            active=item.may_be_active(effective, others or {}),
        )

        if original is not None and name in original:
            control.is_copy = True
            control.original = item.shown(original[name])
            control.original_text = value_text(item, original[name])

        if item.needs == "cuda" and device == "cpu" and not control.changed:
            control.unavailable = "Needs a GPU, and this worker has none."

        _parts_make(control, modules)
        controls[name] = control

    return controls


def _asks_for_several(values: dict[str, Any]) -> bool:
    return bool(values.get("devices", 1) != 1)


def _parts_make(control: Control, modules: list[str]) -> None:
    """The rows of a control that has more than one part."""
    value = control.value
    chosen = value if isinstance(value, list) else []

    if control.field.kind == "rewards":
        control.rewards = reward_rows(chosen)
    elif control.field.kind == "options":
        control.options = [(name, option_text(content)) for name, content in value.items()]
    elif control.field.kind == "modules":
        # Names that the base model does not have are shown too, so that they can be taken away.
        others = [name for name in chosen if name not in modules]
        control.options = [(name, "on" if name in chosen else "") for name in [*modules, *others]]


def groups_make(controls: dict[str, Control]) -> list[Group]:
    groups: dict[str, Group] = {}
    folded = Group("More options", [], folded=True)

    for control in controls.values():
        group = folded
        if not control.field.advanced:
            title = control.field.group
            group = groups.setdefault(title, Group(title, []))

        group.controls.append(control)

    shown = list(groups.values())
    if folded.controls:
        shown.append(folded)

    return shown

"""The form by which operators make and change a method: one row a setting, no JSON.

A row says who decides the setting, its default, and how far people may go. It is kept as the
method's `overrides` (methods.models.TrainingMethod), and what is left blank stays as the recipe has
it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.http import QueryDict

from engine.schema.fields import GROUPS
from methods.field_text import number_value, value_text
from methods.models import TrainingMethod
from methods.schema import ALL_LINEAR, NUMBER_KINDS, Field, method_fields, plain

# Who decides a setting: the person who starts a train, nobody (hidden, the default holds), or the
# method.
OPEN, HIDDEN, FIXED = "open", "hidden", "fixed"
DECIDERS = (
    (OPEN, "Whoever starts the train"),
    (HIDDEN, "Nobody: hidden, default holds"),
    (FIXED, "This method: always this value"),
)
# Chosen in the form of a train, and in no other way.
NOT_PRESET = ("rewards", "options")


@dataclass
class SettingRow:
    """One setting of the recipe: `usual` is the field as the recipe has it, the texts are what the
    controls hold."""

    usual: Field
    decides: str = OPEN
    value: str = ""
    cpu_value: str = ""
    minimum: str = ""
    maximum: str = ""
    usual_on_cpu: str = ""
    errors: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.usual.name

    @property
    def is_number(self) -> bool:
        return self.usual.kind in NUMBER_KINDS

    @property
    def choices(self) -> list[tuple[str, str]]:
        """What a menu offers besides the usual value; none for a setting that is typed."""
        if self.usual.kind == "bool":
            return [("on", "On"), ("off", "Off")]
        if self.usual.kind == "choice":
            return list(self.usual.choices)

        return []

    @property
    def placeholder(self) -> str:
        """The usual value, for the empty control, beside which the unit stands."""
        text = self.usual.default_text
        return text.removesuffix("%") if self.usual.percent else text

    @property
    def changed(self) -> bool:
        texts = (self.value, self.cpu_value, self.minimum, self.maximum)
        return self.decides != OPEN or any(texts)

    @property
    def lowest(self) -> str:
        """The recipe's own lower bound, for the empty control."""
        if self.usual.minimum is not None:
            return plain(self.usual.minimum, self.usual.percent)
        if self.usual.above is not None:
            return f"above {plain(self.usual.above, self.usual.percent)}"

        return ""

    @property
    def highest(self) -> str:
        if self.usual.maximum is None:
            return ""

        return plain(self.usual.maximum, self.usual.percent)


@dataclass
class SettingGroup:
    title: str
    rows: list[SettingRow]

    @property
    def changed_count(self) -> int:
        return sum(row.changed for row in self.rows)


def rows_make(recipe: str, overrides: Mapping[str, Any]) -> dict[str, SettingRow]:
    """A row for each setting that can be preset."""
    plain_method = TrainingMethod(recipe=recipe, overrides={})
    on_gpu = method_fields(plain_method, device="cuda")
    on_cpu = method_fields(plain_method, device="cpu")

    rows = {}
    for name, item in on_gpu.items():
        if item.kind not in NOT_PRESET:
            rows[name] = _row(item, on_cpu[name], overrides.get(name, {}))

    return rows


def _row(item: Field, on_cpu: Field, override: Mapping[str, Any]) -> SettingRow:
    row = SettingRow(item)
    if "fixed" in override:
        row.decides = FIXED
        row.value = _text(item, override["fixed"])
    else:
        row.decides = HIDDEN if override.get("hidden") else OPEN
        if "default" in override:
            row.value = _text(item, override["default"])

    if "default_on_cpu" in override:
        row.cpu_value = _text(item, override["default_on_cpu"])
    if on_cpu.default != item.default or row.cpu_value:
        row.usual_on_cpu = on_cpu.default_text

    row.minimum = _text(item, override.get("minimum"))
    row.maximum = _text(item, override.get("maximum"))

    return row


def _text(item: Field, value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"

    return value_text(item, value)


def rows_read(recipe: str, data: QueryDict) -> dict[str, SettingRow]:
    """The rows as they were posted."""
    rows = rows_make(recipe, {})
    for name, row in rows.items():
        decides = _posted(data, f"decides-{name}")
        if decides in dict(DECIDERS):
            row.decides = decides

        row.value = _posted(data, f"value-{name}")
        row.cpu_value = _posted(data, f"cpu-{name}")
        row.minimum = _posted(data, f"minimum-{name}")
        row.maximum = _posted(data, f"maximum-{name}")

    return rows


def _posted(data: QueryDict, name: str) -> str:
    text = str(data.get(name, ""))
    return text.replace("\r\n", "\n").strip()


def overrides_of(rows: Iterable[SettingRow], before: Mapping[str, Any]) -> dict[str, Any]:
    """`overrides` as the rows say; what no row shows stays as it was `before`."""
    by_name = {row.name: row for row in rows}
    overrides = {name: override for name, override in before.items() if name not in by_name}

    for name, row in by_name.items():
        override = _override_of(row, before.get(name, {}))
        if override:
            overrides[name] = override

    return overrides


def _override_of(row: SettingRow, before: Mapping[str, Any]) -> dict[str, Any]:
    if row.decides == FIXED:
        # An empty control means the usual value.
        value = _value(row.usual, row.value) if row.value else row.usual.default
        return {"fixed": value, "hidden": True}

    override: dict[str, Any] = {}
    if row.decides == HIDDEN:
        override["hidden"] = True

    if row.value:
        override["default"] = _value(row.usual, row.value)
    elif "default" in before and before["default"] in (None, ""):
        # A default of nothing looks like no default; it was chosen by a program, and stays.
        override["default"] = before["default"]

    if row.cpu_value:
        override["default_on_cpu"] = _value(row.usual, row.cpu_value)
    if row.minimum:
        override["minimum"] = number_value(row.usual, row.minimum)
    if row.maximum:
        override["maximum"] = number_value(row.usual, row.maximum)

    return override


def _value(item: Field, text: str) -> Any:
    """What somebody typed, as a value. Text that is none stays as it is, so that its error message
    can name it."""
    if item.kind in NUMBER_KINDS:
        return number_value(item, text)
    if item.kind == "bool":
        return text == "on" if text in ("on", "off") else text

    if item.kind == "modules":
        parts = [part.strip() for part in text.split(",")]
        names = [part for part in parts if part]
        return ALL_LINEAR if names == [ALL_LINEAR] else names

    return text


def groups_of(rows: Iterable[SettingRow]) -> list[SettingGroup]:
    groups = {title: SettingGroup(title, []) for title in GROUPS}
    for row in rows:
        groups[row.usual.group].rows.append(row)

    return [group for group in groups.values() if group.rows]


def errors_place(rows: Mapping[str, SettingRow], messages: Iterable[str]) -> list[str]:
    """Put each message of methods.overrides ("learning_rate: …") at its row; returns those that
    belong to none."""
    others = []
    for message in messages:
        name, _, text = message.partition(": ")
        if text and name in rows:
            rows[name].errors.append(text[0].upper() + text[1:])
        else:
            others.append(message)

    return others

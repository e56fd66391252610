"""A method's fields: the recipe's JSON Schema, overridden by what operators chose for the method.

One place turns the schema into what forms, API and docs show, so that they cannot disagree."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from core.templatetags.display import MISSING
from engine.rewards.registry import CUSTOM_PREFIX, REWARDS
from engine.schema.fields import GROUPS
from engine.schema.registry import RECIPES, more_options
from methods.custom import schema_completed
from methods.models import RewardFunction, TrainingMethod
from methods.rewards import function_of, title_of

NUMBER_KINDS = ("int", "float")
# The value of "modules" that stands for all linear layers.
ALL_LINEAR = "all-linear"
# The types of JSON Schema for the kinds of the trainer's other options, and the other way round.
OPTION_TYPES = {"bool": "boolean", "int": "integer", "float": "number", "object": "object"}
KINDS = {
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "object": "options",
    "string": "text",
}


@dataclass(frozen=True)
class Field:
    """One parameter as the form shows it.

    kind: int, float, bool, choice, text, modules, options, rewards or reward_model. typical: lowest
    and highest of usual values. needs: "cuda" for one that only a GPU can do, "devices" for one that
    means something only where a machine has several devices."""

    name: str
    title: str
    help: str
    kind: str
    default: Any
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    typical: tuple[float, float] | None = None
    unit: str = ""
    percent: bool = False
    advanced: bool = False
    group: str = "Training"
    active_when: dict[str, Any] = field(default_factory=dict)
    choices: tuple[tuple[str, str], ...] = ()
    hidden: bool = False
    fixed: bool = False
    needs: str = ""
    multiline: bool = False

    def is_active(self, values: dict[str, Any]) -> bool:
        """Whether the field has an effect beside `values`."""
        return all(
            _fulfils(values.get(other), wanted) for other, wanted in self.active_when.items()
        )

    def may_be_active(self, values: dict[str, Any], others: Mapping[str, Iterable[Any]]) -> bool:
        """The same where settings have `others` beside those values: whether one of them gives it
        an effect."""
        return all(
            any(_fulfils(value, wanted) for value in (values.get(other), *others.get(other, ())))
            for other, wanted in self.active_when.items()
        )

    def shown(self, value: Any) -> str:
        """A value of this field as every page, form and document writes it: 2e-4, 5%, On, Cosine,
        All linear layers; for None what a blank stands for."""
        if value is None:
            return self.blank_text
        if isinstance(value, bool):
            return "On" if value else "Off"
        if self.kind == "choice":
            return dict(self.choices).get(value, str(value))
        if self.kind == "rewards":
            return rewards_text(value)

        if isinstance(value, int | float):
            # A seed is a name and not an amount.
            return str(value) if self.name == "seed" else plain(value, self.percent)

        if isinstance(value, str):
            return "All linear layers" if value == ALL_LINEAR else value or MISSING

        if isinstance(value, dict):
            return (
                ", ".join(f"{name} {option_text(item)}" for name, item in value.items()) or "none"
            )

        return ", ".join(map(str, value)) or "none"

    def unit_of(self, value: Any) -> str:
        """The unit behind a shown number, "" behind anything else. Units of counts are plural
        nouns: 2 batches, and 1 batch. Symbols such as s stay."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return ""
        if value != 1 or len(self.unit) < 3:
            return self.unit

        return {"batches": "batch"}.get(self.unit, self.unit.removesuffix("s"))

    @property
    def blank_text(self) -> str:
        """What no value stands for, by the help text; an en dash where it does not say."""
        meaning = re.search(r"Blank: ([^.]+)", self.help)
        return meaning[1] if meaning else MISSING

    @property
    def default_text(self) -> str:
        return self.shown(self.default)

    def range_text(self) -> str:
        """What is allowed, in words: "above 0 and at most 1"."""
        bounds = {
            "above": self.above,
            "at least": self.minimum,
            "at most": self.maximum,
        }

        parts = []
        for words, bound in bounds.items():
            if bound is not None:
                parts.append(f"{words} {plain(bound, self.percent)}")

        return " and ".join(parts)


def _fulfils(value: Any, wanted: Any) -> bool:
    """wanted: a value, a list of values, or {"above": a number}."""
    if isinstance(wanted, dict):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and value > wanted["above"]

    return value in (wanted if isinstance(wanted, list) else [wanted])


def plain(number: float, percent: bool = False) -> str:
    """A number as people write it: 2e-4, 1,024, 5%."""
    if percent:
        return f"{number * 100:g}%"

    if number != 0 and abs(number) <= 1e-3:
        mantissa, exponent = f"{number:.6e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"

    if isinstance(number, int):
        return f"{number:,}"

    return f"{number:,.10g}"


def option_text(value: Any) -> str:
    """An option's value as typed: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def rewards_text(choices: Any) -> str:
    """Chosen rewards in a line: Numeric answer (answer tag answer), 0.5 × Tags."""
    if not isinstance(choices, list) or not choices:
        return "none"

    return ", ".join(_reward_text(choice) for choice in choices if isinstance(choice, dict))


def _reward_text(choice: dict[str, Any]) -> str:
    function = str(choice.get("function", ""))
    text = title_of(function)

    weight = choice.get("weight", 1.0)
    if isinstance(weight, int | float) and weight != 1:
        text = f"{plain(weight)} × {text}"

    fields = reward_fields(function)
    parameters = choice.get("parameters") or {}
    changed = []
    for name, value in parameters.items():
        field = fields.get(name)
        if field is None:
            changed.append(f"{name} {value}")
        elif value != field.default:
            title = field.title.lower()
            changed.append(f"{title} {field.shown(value)}")

    if changed:
        text += f" ({', '.join(changed)})"

    return text


@functools.cache
def _schema_text(parameters: type[BaseModel]) -> str:
    """The JSON Schema of a class, as text: pydantic takes about 3 ms for each, and a class never
    changes."""
    return json.dumps(parameters.model_json_schema())


def plain_schema(parameters: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a class of parameters; a copy that the caller may change."""
    schema: dict[str, Any] = json.loads(_schema_text(parameters))
    return schema


def method_schema(method: TrainingMethod, *, device: str = "cpu") -> dict[str, Any]:
    """The effective JSON Schema. Hidden fields stay in it, marked; a fixed one has `const`."""
    if method.is_custom:
        return schema_completed(method.parameters)

    schema = plain_schema(RECIPES[method.recipe].parameters)
    schema.pop("description", None)
    schema.pop("$defs", None)
    properties = _by_group(schema["properties"])
    schema["properties"] = properties

    for name, spec in properties.items():
        _override(spec, method.overrides.get(name, {}), device)

    if "rewards" in properties:
        entries = [reward_schema(kind) for kind in REWARDS.values()]
        properties["rewards"]["items"] = {"oneOf": entries}

    options = more_options(method.recipe)
    properties["more"]["properties"] = {
        name: option_schema(option) for name, option in options.items()
    }
    properties["more"]["additionalProperties"] = False

    return schema


def _by_group(properties: dict[str, Any]) -> dict[str, Any]:
    """In the order of the groups, whichever class declared a field."""

    def place(item: tuple[str, Any]) -> int:
        _, spec = item
        return GROUPS.index(spec.get("group", "Training"))

    return dict(sorted(properties.items(), key=place))


def reward_schema(kind: type[BaseModel]) -> dict[str, Any]:
    """One of the reward functions as an entry of `rewards`."""
    parameters = plain_schema(kind)
    parameters.pop("description", None)
    return _reward_entry(kind.slug, kind.title, kind.help, parameters)  # type: ignore[attr-defined]


def reward_function_schema(function: RewardFunction) -> dict[str, Any]:
    """A function that was registered here, likewise."""
    parameters = schema_completed(function.parameters)
    return _reward_entry(
        f"{CUSTOM_PREFIX}{function.slug}", function.name, function.description, parameters
    )


def _reward_entry(
    function: str, title: str, text: str, parameters: dict[str, Any]
) -> dict[str, Any]:
    return {
        "type": "object",
        "title": title,
        "description": text,
        "properties": {
            "function": {"const": function},
            "weight": {"type": "number", "minimum": -100, "maximum": 100, "default": 1.0},
            "parameters": parameters,
        },
        "required": ["function"],
        "additionalProperties": False,
    }


def reward_fields(function: str) -> dict[str, Field]:
    """The parameters of a reward function; none for one that is not known here."""
    specs: dict[str, Any] = {}
    if function in REWARDS:
        specs = plain_schema(REWARDS[function]).get("properties", {})
    elif (custom := function_of(function)) is not None:
        specs = schema_completed(custom.parameters)["properties"]

    return {name: _field(name, spec) for name, spec in specs.items()}


def option_schema(option: dict[str, Any]) -> dict[str, Any]:
    """One of the trainer's other options as JSON Schema."""
    nullable = option["nullable"]

    if option["type"] == "choice":
        values = [*option["choices"], None] if nullable else option["choices"]
        schema: dict[str, Any] = {"enum": values}
    else:
        kind = OPTION_TYPES[option["type"]]
        schema = {"type": [kind, "null"] if nullable else kind}

    for bound in ("minimum", "maximum"):
        if bound in option:
            schema[bound] = option[bound]

    schema["default"] = option["default"]
    schema["description"] = option["help"]

    return schema


def _override(spec: dict[str, Any], override: dict[str, Any], device: str) -> None:
    """Lay what operators chose for one field over its schema. What the recipe has as default on a
    CPU holds there, unless they chose a default too."""
    on_cpu = spec.pop("default_on_cpu", None)
    if "default" in override:
        on_cpu = None

    on_cpu = override.get("default_on_cpu", on_cpu)

    if "default" in override:
        spec["default"] = override["default"]
    if override.get("hidden"):
        spec["hidden"] = True

    if "fixed" in override:
        spec["const"] = override["fixed"]
        spec["default"] = override.get("default", override["fixed"])
    elif device == "cpu" and on_cpu is not None:
        spec["default"] = on_cpu

    numbers = _number_spec(spec)
    if "minimum" in override:
        numbers.pop("exclusiveMinimum", None)
        numbers["minimum"] = override["minimum"]

    if "maximum" in override:
        numbers["maximum"] = override["maximum"]


def _number_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """The part of a schema that has the bounds: one of anyOf where the number may be null."""
    for part in spec.get("anyOf", []):
        if part.get("type") in ("integer", "number"):
            bounds: dict[str, Any] = part
            return bounds

    return spec


def method_fields(method: TrainingMethod, *, device: str = "cpu") -> dict[str, Field]:
    """{name: parameter} of all parameters, in the order in which the form shows them."""
    schema = method_schema(method, device=device)
    return {name: _field(name, spec) for name, spec in schema["properties"].items()}


def _field(name: str, spec: dict[str, Any]) -> Field:
    parts = spec.get("anyOf", [spec])
    types = [part.get("type") for part in parts]
    main = next(part for part in parts if part.get("type") != "null")
    typical = spec.get("typical")
    titles = spec.get("choice_titles", {})
    choices = [(value, titles.get(value, value)) for value in main.get("enum", ())]

    return Field(
        name=name,
        title=spec["title"],
        help=spec.get("description", ""),
        kind=_kind(name, main),
        default=spec.get("default"),
        nullable="null" in types,
        minimum=main.get("minimum"),
        maximum=main.get("maximum"),
        above=main.get("exclusiveMinimum"),
        typical=tuple(typical) if typical else None,
        unit=spec.get("unit", ""),
        percent=spec.get("percent", False),
        advanced=spec.get("advanced", False),
        group=spec.get("group", "Training"),
        active_when=spec.get("active_when", {}),
        choices=tuple(choices),
        hidden=spec.get("hidden", False),
        fixed="const" in spec,
        needs=spec.get("needs", ""),
        multiline=spec.get("multiline", False),
    )


def _kind(name: str, spec: dict[str, Any]) -> str:
    if name == "target_modules":
        return "modules"
    if name == "rewards":
        return "rewards"
    if spec.get("control"):
        return str(spec["control"])
    if "enum" in spec:
        return "choice"

    return KINDS[spec["type"]]

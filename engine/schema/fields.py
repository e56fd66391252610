"""How a parameter's field is declared: a pydantic field with what a form shows about it.

Imports neither torch nor any training library: the web process uses this module.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from pydantic_core import PydanticCustomError

GROUPS = ("Data", "Rewards", "Training", "LoRA", "Method", "Evaluation and saving", "Hardware")


def parameter(
    default: Any,
    title: str,
    help: str,
    *,
    group: str,
    typical: tuple[float, float] | None = None,
    unit: str = "",
    percent: bool = False,
    advanced: bool = False,
    active_when: dict[str, Any] | None = None,
    default_on_cpu: Any = None,
    needs: Literal["", "cuda", "devices"] = "",
    choice_titles: dict[str, str] | None = None,
    multiline: bool = False,
    control: str = "",
    **bounds: Any,
) -> Any:
    """A pydantic field with what a form shows about it.

    percent: the value is a share (0.05); the form shows it times 100 with a percent sign.
    active_when: {other field: value, list of values, or {"above": number}}; otherwise the field has
    no effect and is hidden. default_on_cpu: the default where the worker has no GPU. needs: "cuda"
    where anything but the default is refused without a GPU; "devices" where it is offered only if a
    machine has several devices. choice_titles: what a person reads for each value of a
    Literal. multiline: a text of several lines. control: the name of a control of its own, where
    the type alone does not determine it. bounds: pydantic's gt, ge, lt, le, min_length, max_length,
    pattern."""
    if group not in GROUPS:
        raise ValueError(f"unknown group {group!r}")

    extra = {
        "group": group,
        "typical": typical,
        "unit": unit,
        "percent": percent,
        "advanced": advanced,
        "active_when": active_when,
        "default_on_cpu": default_on_cpu,
        "needs": needs,
        "choice_titles": choice_titles,
        "multiline": multiline,
        "control": control,
    }

    kept = {key: value for key, value in extra.items() if value not in (None, "", False)}
    return Field(default=default, title=title, description=help, json_schema_extra=kept, **bounds)


def refuse(field: str, message: str) -> PydanticCustomError:
    """The error of a rule over several fields, shown beside `field`."""
    return PydanticCustomError("rule", "{message}", {"message": message, "field": field})

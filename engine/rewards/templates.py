"""Texts with places for values of the row and of the answer: {{item.reference}},
{{item.facts.year}}, {{item.names[0]}}, {{sample.output_text}}, {{sample.output_json.city}}.

This is how OpenAI's graders name what they compare."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from engine.rewards.base import Answer, Unscored

# With the spaces inside: two repeats that may share a character would cost the square of their length.
PLACE = re.compile(r"\{\{([^{}]{1,300})\}\}")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d{1,9})\]")
OUTPUT_TEXT, OUTPUT_JSON = "sample.output_text", "sample.output_json"
LENGTH = 20_000


def places_of(template: str) -> list[str]:
    """The names in a template, without braces."""
    return [name.strip() for name in PLACE.findall(template)]


def template_problem(template: str) -> str:
    """Why a template cannot be filled for any row, or nothing."""
    for name in places_of(template):
        if name == OUTPUT_TEXT or _begins(name, OUTPUT_JSON) or _begins(name, "item"):
            continue

        return (
            f"There is no {{{{{name}}}}}. A place is {{{{item.column}}}}, {{{{sample.output_text}}}} "
            "or {{sample.output_json.field}}."
        )

    return ""


def columns_of(template: str) -> set[str]:
    """The columns of the dataset that a template names."""
    steps = [list(_steps(name)) for name in places_of(template) if _begins(name, "item")]
    return {str(step[1]) for step in steps if len(step) > 1}


def template_fill(template: str, answer: Answer) -> str:
    """The text for this answer. Raises Unscored where its row lacks a value, or its text is no
    JSON."""
    return PLACE.sub(lambda place: _text(_value(place[1].strip(), answer))[:LENGTH], template)


def _value(name: str, answer: Answer) -> Any:
    if name == OUTPUT_TEXT:
        return answer.text

    if _begins(name, OUTPUT_JSON):
        try:
            value = json.loads(answer.text)
        except (ValueError, RecursionError) as error:
            raise Unscored("The answer is not JSON.") from error

        return _inside(value, list(_steps(name))[2:], name)

    return _inside(answer.row, list(_steps(name))[1:], name)


def _inside(value: Any, steps: list[str | int], name: str) -> Any:
    for step in steps:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError) as error:
            raise Unscored(f"There is no {name} here.") from error

    return value


def _steps(name: str) -> Iterator[str | int]:
    """The parts of item.names[0]."""
    for match in _STEP.finditer(name):
        yield int(match[2]) if match[2] is not None else match[1]


def _begins(name: str, first: str) -> bool:
    return name == first or name.startswith((f"{first}.", f"{first}["))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value

    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError as error:
        raise Unscored("The answer is nested too deeply.") from error

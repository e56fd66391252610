"""Values of parameters as text in a form's controls, and what somebody typed as a value again.

How a value is shown to read, outside a control, is methods.schema.Field.shown's."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any

from methods.schema import Field

GROUPED_DIGITS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")


def number_text(value: float) -> str:
    """A number as typed, exact: 2e-4, 0.05, 1024. Reading it back gives the same number."""
    if isinstance(value, int):
        return str(value)
    if value != 0 and abs(value) < 1e-3:
        return f"{Decimal(repr(value)).normalize():e}"

    return repr(value).removesuffix(".0")


def value_text(field: Field, value: Any) -> str:
    """What a control holds for `value`; "" for none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else ""

    if isinstance(value, int | float):
        if not field.percent:
            return number_text(value)

        percent = Decimal(repr(value)) * 100
        return f"{percent.normalize():f}"

    if field.kind == "rewards" or isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)

    return str(value)


def number_value(field: Field, text: str) -> Any:
    """The number that `text` means, None for blank, or the text itself where it is no number."""
    text = text.strip()
    if field.percent:
        text = text.removesuffix("%").strip()
    if not text:
        return None if field.nullable else ""
    if GROUPED_DIGITS.fullmatch(text):
        text = text.replace(",", "")

    try:
        number = Decimal(text)
        value = float(number / 100 if field.percent else number)
    except (ArithmeticError, ValueError):
        return text

    if not math.isfinite(value):
        return text
    if field.kind == "int" and value.is_integer():
        return int(number)

    return value

"""Marks of tests that several modules give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def others_long(values: Sequence[Any]) -> list[Any]:
    """Values of one parameter of a test: with the first it is run by `make test`, with the others
    by `make test-long`."""
    first, *others = values
    return [first, *(pytest.param(value, marks=pytest.mark.long) for value in others)]

"""What other apps show on a dataset's page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User

from datasets_app.models import Dataset

Context = Callable[[Dataset, User], dict[str, Any]]


@dataclass(frozen=True)
class Panel:
    """template: of what is shown. context: what it needs beside `dataset`, for a reader."""

    template: str
    context: Context


_panels: list[Panel] = []


def panel_add(panel: Panel) -> None:
    """For an app to call once, when it is ready."""
    _panels.append(panel)


def panels_context(dataset: Dataset, reader: User) -> dict[str, Any]:
    context: dict[str, Any] = {"panels": [panel.template for panel in _panels]}
    for panel in _panels:
        context |= panel.context(dataset, reader)

    return context

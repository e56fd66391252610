"""What other apps show on a model's page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User

from models_app.models import BaseModel

Context = Callable[[BaseModel, User], dict[str, Any]]


@dataclass(frozen=True)
class Panel:
    """template: of the card. styles: static files that it needs. context: what it needs beside
    `model`, for a reader."""

    template: str
    context: Context
    styles: tuple[str, ...] = ()


_panels: list[Panel] = []


def panel_add(panel: Panel) -> None:
    """For an app to call once, when it is ready."""
    _panels.append(panel)


def panels_context(model: BaseModel, reader: User) -> dict[str, Any]:
    context: dict[str, Any] = {
        "panels": [panel.template for panel in _panels],
        "panel_styles": [style for panel in _panels for style in panel.styles],
    }
    for panel in _panels:
        context |= panel.context(model, reader)

    return context

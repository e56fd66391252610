"""Settings that only this app can judge, looked at when a command of the platform begins."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error

from engine.messages.health import thresholds_read


def health_thresholds(app_configs: Any, **options: Any) -> list[CheckMessage]:
    try:
        thresholds_read(settings.HEALTH_THRESHOLDS)
    except ValueError as error:
        return [Error(f"DEEPEXTENSION_HEALTH: {error}", id="training.E001")]

    return []

"""The system prompt that a model was trained with, as its files keep it when its train is gone."""

from __future__ import annotations

import json

from models_app.models import BaseModel

PASSPORT = "passport.json"


def system_prompt_of(model: BaseModel) -> str:
    """The system prompt that the model was trained with, or nothing. Models that were merged before
    references were kept have it in their passport."""
    for file in (model.reference_path, model.path / PASSPORT):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue

        if "system_prompt" in found:
            return str(found["system_prompt"] or "")

    return ""

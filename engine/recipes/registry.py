"""The table of recipes. A recipe is a folder here: parameters.py (no training library), recipe.py (all of them)."""

from __future__ import annotations

from dataclasses import dataclass

from engine.options import more_options
from engine.parameters import TrainParameters
from engine.recipes.sft.parameters import SftParameters

__all__ = ["RECIPES", "Recipe", "more_options"]


@dataclass(frozen=True)
class Recipe:
    """`formats`: slugs of engine.formats that it can learn from."""

    name: str
    title: str
    parameters: type[TrainParameters]
    formats: tuple[str, ...]


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="sft",
            title="Supervised fine-tuning",
            parameters=SftParameters,
            formats=("messages", "conversations", "prompt-completion", "alpaca", "question-answer", "text"),
        ),
    )
}

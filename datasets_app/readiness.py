"""Which methods can learn from a dataset, and what is missing for the others."""

from __future__ import annotations

from typing import Any

from core.text import are, counted
from datasets_app.models import Dataset
from datasets_app.repairing import repairs_of
from engine.doctor.repair_kinds import Repair
from engine.rows.formats import FORMATS
from engine.schema.registry import RECIPES


def readiness_of(dataset: Dataset) -> list[dict[str, Any]]:
    """For each recipe {"recipe", "title", "state": ready, repair or no, "text", "repair": slug or
    ""}."""
    repairs = repairs_of(dataset)
    return [_readiness(dataset, name, repairs) for name in RECIPES]


def _readiness(dataset: Dataset, name: str, repairs: list[Repair]) -> dict[str, Any]:
    recipe = RECIPES[name]
    repair = ""
    if dataset.format in recipe.formats:
        obstacle = _obstacle(dataset, name)
        state = "no" if obstacle else "ready"
        text = obstacle or _rows_text(dataset)
    else:
        making = [repair for repair in repairs if repair.makes in recipe.formats]
        if making and dataset.good_row_count:
            state = "repair"
            text = f"After: {making[0].title.lower()}."
            repair = making[0].slug
        else:
            titles = [_in_a_sentence(FORMATS[slug].title) for slug in recipe.formats[:2]]
            state = "no"
            text = f"Needs rows of another kind: {' or '.join(titles)}."

    return {
        "recipe": name,
        "title": recipe.title,
        "state": state,
        "text": text,
        "repair": repair,
    }


def _rows_text(dataset: Dataset) -> str:
    text = counted(dataset.good_row_count, "row")
    if dataset.problem_count:
        count = dataset.problem_count
        text += f", {counted(count, 'bad one')} {are(count)} left out"

    return f"{text}."


def _obstacle(dataset: Dataset, recipe: str) -> str:
    """Why the recipe learns nothing from rows of the right kind, "" where it can."""
    counts = {finding["kind"]: finding["count"] for finding in dataset.findings}

    if dataset.good_row_count:
        if recipe == "kto" and "one_label" in counts:
            return "All answers are rated alike: there is nothing to compare."

        return ""

    if counts.get("media") == dataset.row_count:
        return "Its rows hold pictures, sound or video, which cannot be trained on yet."

    return "None of its rows can be learned from."


def _in_a_sentence(title: str) -> str:
    """A title with a lower-case first letter; names within it keep theirs."""
    return title[:1].lower() + title[1:]

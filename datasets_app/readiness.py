"""Which methods can learn from a dataset, and what is missing for the others."""

from __future__ import annotations

from typing import Any

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
    found: dict[str, Any] = {"recipe": name, "title": recipe.title, "repair": ""}

    if dataset.format in recipe.formats and dataset.good_row_count:
        kinds = {finding["kind"] for finding in dataset.findings}
        if name == "kto" and "one_label" in kinds:
            return found | {
                "state": "no",
                "text": "All answers are rated alike: there is nothing to tell apart.",
            }

        bad = f", {dataset.problem_count:,} bad ones are left out" if dataset.problem_count else ""
        rows = "1 row" if dataset.good_row_count == 1 else f"{dataset.good_row_count:,} rows"
        return found | {"state": "ready", "text": f"{rows}{bad}."}

    if dataset.format in recipe.formats:
        return found | {"state": "no", "text": _why_no_row(dataset)}

    repair = next((repair for repair in repairs if repair.makes in recipe.formats), None)
    if repair is not None and dataset.good_row_count:
        return found | {
            "state": "repair",
            "text": f"After: {repair.title.lower()}.",
            "repair": repair.slug,
        }

    needed = " or ".join(_in_a_sentence(FORMATS[slug].title) for slug in recipe.formats[:2])
    return found | {"state": "no", "text": f"Needs rows of another kind: {needed}."}


def _why_no_row(dataset: Dataset) -> str:
    """Why nothing can be learned from rows of the right kind."""
    kinds = {finding["kind"]: finding["count"] for finding in dataset.findings}
    if kinds.get("media") == dataset.row_count:
        return "Its rows hold pictures, sound or video, which cannot be trained on yet."

    return "None of its rows can be learned from."


def _in_a_sentence(title: str) -> str:
    """A title with a small first letter, names in it as they are."""
    return title[:1].lower() + title[1:]

"""The model card of a merged model: how to use it, where it is from, and the results on the train's
own card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.contract.rundir import Spec
from engine.models.inspect import licence_keys
from engine.publish.usage import usage

# The first heading of the part of the train's card that is kept: the data and the results.
RESULTS = "\n## Data\n"


def card_write(spec: Spec, train_card: Path, precision: str, step: int) -> str:
    """Markdown with the front matter that model hubs read. `train_card`: README.md of the train's
    own model, if it is there. `step`: of the merged checkpoint, 0 for the train's result."""
    name = _one_line(spec.name)
    source = spec.base_model_source
    base = _one_line(spec.base_model_name) if source is None else source.hub_id
    at_step = f", as it was after step {step:,}" if step else ""

    parts = [
        _front_matter(spec),
        f"# {name}",
        f"{base} with the adapter of a DeepExtension train ({spec.method}) merged into its weights"
        f"{at_step}. The sums were made in fp32 and are stored in {precision}.",
        "## How to use it",
        usage(spec, is_adapter=False),
    ]
    text = "\n\n".join(parts) + "\n"

    if step or not train_card.is_file():
        # The train's card has the results of its last step.
        return text

    _, heading, results = train_card.read_text().partition(RESULTS)
    return text + heading + results


def card_complete(card: Path, passport: dict[str, Any]) -> None:
    """Add to a model card what the passport says of the model's origin, in words."""
    base, data = passport["base_model"], passport["data"]
    step = passport["checkpoint_step"]
    rows = {
        "Method": passport["train"]["method"] + (f", step {step:,}" if step else ""),
        "Base model": _one_line(base["hub_id"] or base["name"]),
        "Base model, licence": base["licence"] or "not named on its card",
        "Base model, sha256": f"`{base['sha256']}`",
        "Data, sha256": f"`{data['sha256']}`",
        **_measures(passport["measures"]),
        "Stored in": passport["precision"],
    }
    table = "\n".join(f"| {title} | {value} |" for title, value in rows.items())
    text = card.read_text() if card.is_file() else ""
    card.write_text(
        f"{text.rstrip()}\n\n## Where it is from\n\n| | |\n|---|---|\n{table}\n\n"
        "`passport.json` says the same for programs, with every parameter and hash.\n"
    )


def _measures(measures: dict[str, Any]) -> dict[str, str]:
    """Of the rows that were held out, where there are any."""
    measured = measures["evaluation"] if "last" in measures["evaluation"] else measures["train"]
    return {
        f"{name.capitalize()} {measured['metric']}": f"{point['value']:.4f} at step {point['step']:,}"
        for name in ("first", "best", "last")
        if (point := measured.get(name))
    }


def _front_matter(spec: Spec) -> str:
    is_scorer = spec.recipe == "reward"
    values = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification" if is_scorer else "text-generation",
    }

    # What was trained from a model stays under its licence.
    values |= licence_keys(Path(spec.base_model_path))

    if spec.base_model_source is not None:
        values["base_model"] = spec.base_model_source.hub_id
        values["base_model_relation"] = "finetune"

    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    tags = json.dumps([spec.recipe, "trl", "merged"])

    return "\n".join(["---", *lines, f"tags: {tags}", "---"])


def _one_line(text: str) -> str:
    return " ".join(text.split())

"""The card of a merged model: how to use it, where it is from, and what the train's own card
says."""

from __future__ import annotations

import json
from pathlib import Path

from engine.contract.rundir import Spec
from engine.publish.usage import usage

# Where the train's card begins to tell what was trained, on what, and with which result.
RESULTS = "\n## Data\n"


def card_write(spec: Spec, train_card: Path, precision: str, step: int) -> str:
    """Markdown with the head that model hubs read. `train_card`: README.md of the train's own
    model, if it is there."""
    name = " ".join(spec.name.split())
    source = spec.base_model_source
    head = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification" if spec.recipe == "reward" else "text-generation",
    }

    if source is not None:
        head |= {"base_model": source.hub_id, "base_model_relation": "finetune"}

    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    tags = json.dumps([spec.recipe, "trl", "merged"])

    base = source.hub_id if source is not None else " ".join(spec.base_model_name.split())
    at_step = f", as it was after step {step:,}" if step else ""
    parts = [
        "---\n" + "\n".join(lines) + f"\ntags: {tags}\n---",
        f"# {name}",
        f"{base} with the adapter of a DeepExtension train ({spec.method}) merged into its weights"
        f"{at_step}. The sums were made in fp32 and are stored in {precision}.",
        "## How to use it",
        usage(spec, is_adapter=False),
    ]

    text = "\n\n".join(parts) + "\n"

    own = train_card.read_text() if train_card.is_file() and not step else ""

    return text + own[own.find(RESULTS) :] if RESULTS in own else text

"""The model card: what was trained, on what, with what result, and how to use it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from engine.contract.rundir import Spec
from engine.publish.usage import NEWER_ONLY, usage
from engine.run.job import Job
from engine.schema.registry import RECIPES


@dataclass(frozen=True)
class Facts:
    """What the card tells besides the spec. `is_stopped`: the train was stopped before its end."""

    device: str
    precision: str
    versions: dict[str, str]
    parameter_count: int
    trainable_count: int
    train_rows: int
    eval_rows: int
    step: int
    total_steps: int
    metrics: dict[str, float]
    is_adapter: bool
    is_stopped: bool
    newer_only: bool = False
    """The adapter cannot be read by transformers 4."""


SHOWN_METRICS = {
    "loss": "Training loss, last step",
    "mean_token_accuracy": "Training token accuracy, last step",
    "eval_loss": "Evaluation loss",
    "eval_perplexity": "Evaluation perplexity",
    "eval_mean_token_accuracy": "Evaluation token accuracy",
    "rewards/margins": "Margin between better and worse answers, last step",
    "eval_rewards/margins": "Margin between better and worse answers, held out",
    "eval_rewards/accuracies": "Better answers preferred, held out",
    "accuracy": "Better answers scored higher, last step",
    "eval_accuracy": "Better answers scored higher, held out",
    "eval_margin": "Margin between scores, held out",
    "reward": "Reward, last step",
    "eval_reward": "Reward, held-out prompts",
}


def card_write(job: Job, facts: Facts) -> str:
    """The card as Markdown with the head that model hubs read."""
    spec = job.spec
    kind = _kind(spec.recipe, facts.is_adapter)
    parts = [
        _head(job, facts),
        f"# {_line(spec.name)}",
        f"A {kind} trained with DeepExtension ({spec.method}) from {_line(spec.base_model_name)}."
        + (
            f" The train was stopped after step {facts.step} of {facts.total_steps}."
            if facts.is_stopped
            else ""
        ),
        "## How to use it",
        *([NEWER_ONLY] if facts.newer_only else []),
        usage(spec, is_adapter=facts.is_adapter),
        "## Data",
        _table(
            {
                "Training rows": f"{facts.train_rows:,}",
                "Held-out rows": f"{facts.eval_rows:,}",
                "Format": spec.dataset.format,
                "File, sha256": f"`{spec.dataset.sha256}`",
                **(
                    {"Evaluation file, sha256": f"`{spec.evaluation_dataset.sha256}`"}
                    if spec.evaluation_dataset
                    else {}
                ),
            }
        ),
        "## Results",
        _table(
            {
                "Steps": f"{facts.step:,} of {facts.total_steps:,}",
                **{
                    title: f"{facts.metrics[name]:.4f}"
                    for name, title in SHOWN_METRICS.items()
                    if name in facts.metrics
                },
            }
        ),
        "## Parameters",
        _table(
            {
                name: f"`{json.dumps(value)}`"
                for name, value in job.parameters.model_dump(mode="json").items()
            }
        ),
        *(
            [f"## System prompt\n\n{_quoted(spec.system_prompt)}"]
            if spec.system_prompt.strip()
            else []
        ),
        "## Made with",
        _table(
            {
                "Base model": _base_model(spec),
                "Base model, sha256": f"`{spec.base_model_sha256}`",
                "Weights": f"{facts.parameter_count:,}, of which {facts.trainable_count:,} were "
                "trained",
                "Device": f"{_line(facts.device)}, {facts.precision}",
                **facts.versions,
            }
        ),
    ]

    return "\n\n".join(parts) + "\n"


def _kind(recipe: str, is_adapter: bool) -> str:
    if RECIPES[recipe].makes_scorer:
        return "reward model (LoRA adapter)" if is_adapter else "reward model"

    return "LoRA adapter" if is_adapter else "model"


def _head(job: Job, facts: Facts) -> str:
    """YAML; JSON strings are YAML strings, so names need no quoting rules of their own."""
    lines = {
        "library_name": "peft" if facts.is_adapter else "transformers",
        "pipeline_tag": "text-classification"
        if RECIPES[job.spec.recipe].makes_scorer
        else "text-generation",
    }

    if (source := job.spec.base_model_source) is not None:
        # Hubs take names of their own here and refuse others.
        lines |= {"base_model": source.hub_id}
        lines |= {"base_model_relation": "adapter" if facts.is_adapter else "finetune"}

    tags = [job.spec.recipe, "trl", *(["lora"] if facts.is_adapter else [])]
    text = "\n".join(
        f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in lines.items()
    )
    return f"---\n{text}\ntags: {json.dumps(tags)}\n---"


def _base_model(spec: Spec) -> str:
    source = spec.base_model_source
    if source is None:
        return _line(spec.base_model_name)

    return f"{source.hub_id}, revision {source.revision}" if source.revision else source.hub_id


def _table(rows: dict[str, Any]) -> str:
    return "\n".join(
        [
            "| | |",
            "|---|---|",
            *(
                f"| {name} | {str(value).replace('|', chr(92) + '|')} |"
                for name, value in rows.items()
            ),
        ]
    )


def _line(text: str) -> str:
    """A name from a person as one line that Markdown does not read as anything else."""
    return " ".join(text.split()).replace("<", "&lt;").replace("`", "'").replace('"', "'")


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.strip().replace("<", "&lt;").splitlines())

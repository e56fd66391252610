"""The model card: what was trained, on what, with what result, and how to use it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from engine.contract.rundir import Spec
from engine.publish.usage import NEWER_ONLY, usage
from engine.run.job import Job
from engine.schema.registry import RECIPES


@dataclass(frozen=True)
class Facts:
    """What the card says besides the spec. `is_stopped`: the train was stopped before its end.
    `newer_only`: transformers 4 cannot read the adapter."""

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
    parts = [
        _head(job, facts),
        f"# {_line(spec.name)}",
        _summary(spec, facts),
        "## How to use it",
    ]
    if facts.newer_only:
        parts.append(NEWER_ONLY)

    parts += [
        usage(spec, is_adapter=facts.is_adapter),
        "## Data",
        _table(_data(spec, facts)),
        "## Results",
        _table(_results(facts)),
        "## Parameters",
        _table(_parameters(job)),
    ]
    if spec.system_prompt.strip():
        parts.append(f"## System prompt\n\n{_quoted(spec.system_prompt)}")

    parts += [
        "## Made with",
        _table(_made_with(spec, facts)),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(spec: Spec, facts: Facts) -> str:
    kind = _kind(spec.recipe, facts.is_adapter)
    base = _line(spec.base_model_name)
    text = f"A {kind} trained with DeepExtension ({spec.method}) from {base}."
    if spec.start_adapter is not None:
        name = _line(spec.start_adapter.model_name)
        text += f" It continues the adapter of {name}, which was trained from the same base model."
    if facts.is_stopped:
        text += f" The train was stopped after step {facts.step} of {facts.total_steps}."

    return text


def _data(spec: Spec, facts: Facts) -> dict[str, str]:
    rows = {
        "Training rows": f"{facts.train_rows:,}",
        "Held-out rows": f"{facts.eval_rows:,}",
        "Format": spec.dataset.format,
        "File, sha256": f"`{spec.dataset.sha256}`",
    }
    if spec.evaluation_dataset:
        rows["Evaluation file, sha256"] = f"`{spec.evaluation_dataset.sha256}`"

    return rows


def _results(facts: Facts) -> dict[str, str]:
    rows = {"Steps": f"{facts.step:,} of {facts.total_steps:,}"}
    for name, title in SHOWN_METRICS.items():
        if name in facts.metrics:
            rows[title] = f"{facts.metrics[name]:.4f}"

    return rows


def _parameters(job: Job) -> dict[str, str]:
    values = job.parameters.model_dump(mode="json")
    return {name: f"`{json.dumps(value)}`" for name, value in values.items()}


def _made_with(spec: Spec, facts: Facts) -> dict[str, str]:
    weights = f"{facts.parameter_count:,}, of which {facts.trainable_count:,} were trained"
    return {
        "Base model": _base_model(spec),
        "Base model, sha256": f"`{spec.base_model_sha256}`",
        "Weights": weights,
        "Device": f"{_line(facts.device)}, {facts.precision}",
        **facts.versions,
    }


def _kind(recipe: str, is_adapter: bool) -> str:
    if RECIPES[recipe].makes_scorer:
        return "reward model (LoRA adapter)" if is_adapter else "reward model"

    return "LoRA adapter" if is_adapter else "model"


def _head(job: Job, facts: Facts) -> str:
    """YAML; JSON strings are YAML strings, so names need no quoting rules of their own."""
    spec = job.spec
    makes_scorer = RECIPES[spec.recipe].makes_scorer
    values = {
        "library_name": "peft" if facts.is_adapter else "transformers",
        "pipeline_tag": "text-classification" if makes_scorer else "text-generation",
    }

    # Without a hub id nothing is written: hubs accept only names of their own here.
    if spec.base_model_source is not None:
        values["base_model"] = spec.base_model_source.hub_id
        values["base_model_relation"] = "adapter" if facts.is_adapter else "finetune"

    tags = [spec.recipe, "trl"]
    if facts.is_adapter:
        tags.append("lora")

    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    lines.append(f"tags: {json.dumps(tags)}")
    return "\n".join(["---", *lines, "---"])


def _base_model(spec: Spec) -> str:
    source = spec.base_model_source
    if source is None:
        return _line(spec.base_model_name)
    if not source.revision:
        return source.hub_id

    return f"{source.hub_id}, revision {source.revision}"


def _table(rows: dict[str, str]) -> str:
    """A Markdown table of two columns without a head."""
    lines = ["| | |", "|---|---|"]
    for name, value in rows.items():
        escaped = value.replace("|", "\\|")
        lines.append(f"| {name} | {escaped} |")

    return "\n".join(lines)


def _line(text: str) -> str:
    """A name that a person chose, as one line without Markdown or HTML."""
    line = " ".join(text.split())
    return line.replace("<", "&lt;").replace("`", "'").replace('"', "'")


def _quoted(text: str) -> str:
    """A text as a Markdown quotation."""
    lines = text.strip().replace("<", "&lt;").splitlines()
    return "\n".join(f"> {line}" for line in lines)

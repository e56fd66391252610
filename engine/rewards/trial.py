"""A dry run of rewards: the base model answers a few rows, or a person did, and each function scores them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from engine.rewards.base import Answer
from engine.rewards.panel import Panel
from engine.rewards.parameters import RewardChoice
from engine.rundir import Resource

TRIAL, RESULT = "trial.json", "result.json"


class TrialRow(BaseModel):
    """`answer`: None where the base model shall answer."""

    prompt: list[dict[str, str]]
    reference: str = ""
    answer: str | None = None
    row: dict[str, Any] = {}


class Trial(BaseModel):
    model_config = ConfigDict(extra="forbid")

    base_model_path: str
    rewards: list[RewardChoice]
    rows: list[TrialRow]
    resources: dict[str, Any] = {}
    system_prompt: str = ""
    max_completion_tokens: int = 256
    temperature: float = 1.0
    seed: int = 42


@dataclass
class Told:
    """What result.json holds: `answers` beside their rewards, or the one reason why there are none."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""


def trial_run(directory: Path) -> None:
    """Read trial.json, write result.json, whole or not at all."""
    from engine.failures import explain

    try:
        told = Told(answers=_score(Trial.model_validate_json((directory / TRIAL).read_text())))
    except Exception as error:
        failure = explain(error)
        told = Told(error=f"{failure.message} {failure.advice}".strip())
    temporary = directory / f"{RESULT}.tmp"
    temporary.write_text(json.dumps({"answers": told.answers, "error": told.error}, ensure_ascii=False))
    temporary.replace(directory / RESULT)


def _score(trial: Trial) -> list[dict[str, Any]]:
    panel = Panel.of(trial.rewards, {key: Resource(**value) for key, value in trial.resources.items()})
    missing = [row for row in trial.rows if row.answer is None]
    written = iter(_answers(trial, missing) if missing else [])
    answers = [
        Answer(row.prompt, next(written) if row.answer is None else row.answer, row.reference, row.row)
        for row in trial.rows
    ]
    scores = panel.score(answers)
    reasons = {(failure.function, failure.row): failure.reason for failure in scores.failures}
    return [
        {
            "prompt": answer.prompt,
            "reference": answer.reference,
            "text": answer.text,
            "rewards": {
                name: {"value": scores.values[name][index], "error": reasons.get((choice.function, index), "")}
                for name, choice in zip(panel.names, panel.choices, strict=True)
            },
            "total": scores.totals[index],
        }
        for index, answer in enumerate(answers)
    ]


def _answers(trial: Trial, rows: list[TrialRow]) -> list[str]:
    """One sampled answer a row, as training would sample it."""
    import torch
    from transformers import AutoModelForCausalLM, set_seed
    from transformers.utils import logging

    from engine.inspect_model import weight_files
    from engine.render import Renderer, tokenizer_load

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = Path(trial.base_model_path)
    tokenizer = tokenizer_load(folder)
    weight_files(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, dtype=torch.float32
    )
    model.eval()
    renderer = Renderer(tokenizer, system_prompt=trial.system_prompt, warn=lambda code, message: None)
    ids = [renderer.prompt_ids(row.prompt) for row in rows]
    width = max(len(row) for row in ids)
    pad = tokenizer.pad_token_id
    set_seed(trial.seed)
    with torch.no_grad():
        written = model.generate(
            input_ids=torch.tensor([[pad] * (width - len(row)) + row for row in ids]),
            attention_mask=torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids]),
            max_new_tokens=trial.max_completion_tokens,
            do_sample=True,
            temperature=trial.temperature,
            top_k=0,
            top_p=1.0,
            pad_token_id=pad,
            eos_token_id=renderer.stop_ids(model.generation_config.eos_token_id),
        )
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in written[:, width:]]

"""A trial of rewards: the base model answers a few rows, or a person did, and each function scores
the answers.

Answers are stored one by one, so that they can be shown while the model writes the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from engine.contract.rundir import Resource
from engine.rewards.base import Answer
from engine.rewards.panel import Panel
from engine.rewards.parameters import RewardChoice

TRIAL = "trial.json"
ANSWERS = "answers.jsonl"
RESULT = "result.json"


class TrialRow(BaseModel):
    """`answer`: None where the base model is to answer."""

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


def trial_run(directory: Path) -> None:
    """Read trial.json; append each answer with its scores to answers.jsonl as soon as it is known;
    write result.json at the end, whole or not at all: {"error": why it failed, or ""}."""
    from engine.messages.failures import explain

    error = ""

    try:
        trial = Trial.model_validate_json((directory / TRIAL).read_text())
        with (directory / ANSWERS).open("w", encoding="utf-8") as stream:
            for answer in _scored(trial):
                stream.write(json.dumps(answer, ensure_ascii=False) + "\n")
                stream.flush()
    except Exception as problem:
        failure = explain(problem)
        error = f"{failure.message} {failure.advice}".strip()

    result_write(directory, error)


def result_write(directory: Path, error: str) -> None:
    """Write result.json whole or not at all: a reader never sees half of it."""
    temporary = directory / f"{RESULT}.tmp"
    temporary.write_text(json.dumps({"error": error}, ensure_ascii=False))
    temporary.replace(directory / RESULT)


def answers_read(directory: Path) -> list[dict[str, Any]]:
    """The complete answers in answers.jsonl; a line that is still being written is not read."""
    try:
        text = (directory / ANSWERS).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []

    return [json.loads(line) for line in text.split("\n")[:-1]]


def _scored(trial: Trial) -> Iterator[dict[str, Any]]:
    """One answer after the other, in the order of the rows."""
    panel = Panel.of(
        trial.rewards, {key: Resource(**value) for key, value in trial.resources.items()}
    )
    writer: _Writer | None = None

    for row in trial.rows:
        text = row.answer
        if text is None:
            writer = writer or _Writer(trial)
            text = writer.write(row)

        yield _score(panel, Answer(row.prompt, text, row.reference, row.row))


def _score(panel: Panel, answer: Answer) -> dict[str, Any]:
    scores = panel.score([answer])
    reasons = {failure.function: failure.reason for failure in scores.failures}
    rewards = {
        name: {"value": scores.values[name][0], "error": reasons.get(choice.function, "")}
        for name, choice in zip(panel.names, panel.choices, strict=True)
    }

    return {
        "prompt": answer.prompt,
        "reference": answer.reference,
        "text": answer.text,
        "rewards": rewards,
        "total": scores.totals[0],
    }


class _Writer:
    """The base model, which samples answers as training would."""

    def __init__(self, trial: Trial) -> None:
        import torch
        from transformers import set_seed
        from transformers.utils import logging

        from engine.chat.render import Renderer, tokenizer_load
        from engine.loading.pretrained import pretrained_load
        from engine.models.inspect import weight_files

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        folder = Path(trial.base_model_path)
        self.trial = trial
        self.tokenizer = tokenizer_load(folder)
        weight_files(folder)
        self.model = pretrained_load(folder, dtype=torch.float32)
        self.model.eval()
        self.renderer = Renderer(
            self.tokenizer, system_prompt=trial.system_prompt, warn=lambda code, message: None
        )
        set_seed(trial.seed)

    def write(self, row: TrialRow) -> str:
        """One sampled answer to the row's prompt."""
        from engine.loading.batch_generation import answers_generate

        (answer,) = answers_generate(
            self.model,
            [self.renderer.prompt_ids(row.prompt)],
            max_new_tokens=self.trial.max_completion_tokens,
            do_sample=True,
            temperature=self.trial.temperature,
            top_k=0,
            top_p=1.0,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.renderer.stop_ids(self.model.generation_config.eos_token_id),
        )

        text: str = self.tokenizer.decode(answer, skip_special_tokens=True)
        return text.strip()

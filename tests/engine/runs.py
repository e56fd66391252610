"""Run directories for tests: a toy dataset that can be learned, a tiny model, and what a run left
behind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contract.rundir import DataFile, Spec, file_sha256, read_events, write_spec
from engine.run.main import run

COLOURS = ("red", "green", "blue", "black")


def toy_rows(count: int = 24) -> list[dict[str, Any]]:
    """Conversations whose answers follow from nothing but having been learned."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Ball {number}?"},
                {"role": "assistant", "content": f"It is {COLOURS[number % 4]}."},
            ]
        }
        for number in range(count)
    ]


def toy_pairs(count: int = 24) -> list[dict[str, Any]]:
    """Pairs whose better answer is told by its words alone."""
    return [
        {
            "prompt": f"Ball {number}?",
            "chosen": f"It is {COLOURS[number % 4]}.",
            "rejected": f"No idea, {number}!",
        }
        for number in range(count)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@dataclass
class Run:
    """A finished run: exit code, directory, and its events by type."""

    code: int
    directory: Path

    @property
    def events(self) -> list[dict[str, Any]]:
        return read_events(self.directory)[0]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    def losses(self, split: str = "train") -> dict[int, float]:
        name = "loss" if split == "train" else "eval_loss"
        return {
            event["step"]: event["values"][name]
            for event in self.of("metrics")
            if event["split"] == split
        }

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]


DEFAULTS = {
    "adapter": "lora",
    "max_steps": 4,
    "batch_size": 4,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0.01,
    "max_tokens": 64,
    "lora_rank": 4,
    "lora_dropout": 0.0,
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "scheduler": "constant",
    "evaluation_split": 0.0,
    "sample_prompts": 0,
    "save_strategy": "end",
    # Not what the machine is good at: the same numbers everywhere.
    "precision": "fp32",
}


def prepare(
    directory: Path,
    model: Path,
    rows: Any = None,
    *,
    format: str = "messages",
    cache: str = "",
    **given: Any,
) -> Path:
    """A run directory. `rows`: the dataset's, or a file; `cache`: what is derived from it is kept
    there. Names of the spec go there, all others are parameters."""
    names = {
        "resume_from",
        "branch",
        "start_adapter",
        "system_prompt",
        "evaluation_dataset",
        "recipe",
        "resources",
        "health",
        "base_model_source",
        "base_model_sha256",
    } & set(given)
    spec = {name: given.pop(name) for name in names}
    directory.mkdir(parents=True, exist_ok=True)
    data = (
        rows if isinstance(rows, Path) else write_rows(directory / "data.jsonl", rows or toy_rows())
    )
    values = {"base_model_sha256": "", "recipe": "sft", "parameters": DEFAULTS | given} | spec
    if "rewards" in given:
        # A row is a prompt there, and has its own limits.
        del values["parameters"]["max_tokens"]
    write_spec(
        directory,
        Spec(
            run_id=7,
            name="Toy train",
            method="lora",
            base_model_path=str(model),
            base_model_name="Tiny",
            dataset=DataFile(str(data), file_sha256(data), "jsonl", format, cache=cache),
            **values,
        ),
    )
    return directory


def train(directory: Path, model: Path, rows: Any = None, **given: Any) -> Run:
    prepare(directory, model, rows, **given)
    return Run(run(directory), directory)

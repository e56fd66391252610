"""One step of every method, on rows of the length that its largest batch would have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.chat.render import Renderer
from engine.contract.rundir import all_events
from engine.programs.one_step import ORDER, ROWS, one_step
from engine.schema.registry import RECIPES
from tests.engine.runs import prepare, toy_pairs, toy_rows

WRITING = {
    "max_prompt_tokens": 64,
    "max_completion_tokens": 8,
    "batch_size": 4,
    "rewards": [{"function": "length_window"}, {"function": "llm_judge"}],
}
OWN: dict[str, dict[str, Any]] = {
    "grpo": WRITING | {"num_generations": 2},
    "ppo": WRITING | {"ppo_epochs": 1},
}
FORMATS = {"dpo": "preference", "reward": "preference", "kto": "kto"}


def rows_for(recipe: str) -> list[dict[str, Any]]:
    if recipe in ("dpo", "reward"):
        return toy_pairs(30)
    if recipe == "kto":
        return [
            # The good answers are the short ones: both kinds are taken all the same.
            {"prompt": row["prompt"], "completion": row["chosen"] * (2 - good), "label": bool(good)}
            for row in toy_pairs(15)
            for good in (1, 0)
        ]

    rows = toy_rows(30)
    for number, row in enumerate(rows):
        row["messages"][0]["content"] += " please" * (number % 5)
    return rows


def ordered(tmp_path: Path, tiny: Path, recipe: str, tokens: int, **given: Any) -> Path:
    folder = prepare(
        tmp_path / "step",
        tiny,
        rows_for(recipe),
        recipe=recipe,
        format=FORMATS.get(recipe, "messages"),
        **OWN.get(recipe, {}) | given,
    )
    order = {
        "tokens": tokens,
        "rows": 2 if recipe == "grpo" else 4,
        "prompts": recipe in OWN,
        "steps": 1 if recipe in OWN else 2,
    }
    (folder / ORDER).write_text(json.dumps(order))
    return folder


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_of_every_method_is_measured(tiny, tmp_path, recipe):
    folder = ordered(tmp_path, tiny, recipe, tokens=40)
    found = one_step(folder)

    assert found["peak_bytes"] > 100 * 2**20
    assert found["step_seconds"] > 0
    assert found["device"]["kind"] in ("cpu", "cuda")
    # Its rows are those of the wanted length, and as many as its steps take.
    assert 20 <= found["tokens"] <= 80
    assert len((folder / ROWS).read_text().splitlines()) >= 4


@pytest.mark.parametrize("recipe", OWN)
def test_answers_of_a_step_are_as_long_as_they_may_be(tiny, tmp_path, recipe, monkeypatch):
    """Though the model would end them sooner, as here at nearly every token."""
    monkeypatch.setattr(Renderer, "stop_ids", lambda self, known: list(range(250)))
    folder = ordered(tmp_path, tiny, recipe, tokens=40)
    one_step(folder)

    lengths = {
        event["tokens"] for event in all_events(folder) if event.get("stage") == "completion"
    }
    assert lengths == {WRITING["max_completion_tokens"]}


def test_the_longest_rows_are_repeated_where_there_are_too_few(tiny, tmp_path):
    folder = ordered(tmp_path, tiny, "sft", tokens=10_000, batch_size=4)
    Path(folder / "data.jsonl").write_text(json.dumps(toy_rows(1)[0]) + "\n")
    # The row alone is the dataset now; the spec's hash of it is not looked at here.
    found = one_step(folder)

    assert found["tokens"] < 100
    assert len(set((folder / ROWS).read_text().splitlines())) == 1


def test_a_failing_step_says_why(tiny, tmp_path):
    folder = ordered(tmp_path, tiny, "sft", tokens=40, target_modules=["nothing"])

    with pytest.raises(RuntimeError, match="target modules"):
        one_step(folder)

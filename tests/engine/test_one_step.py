"""One step of every method, on rows of the length that its largest batch would have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.chat.render import Renderer, tokenizer_load
from engine.contract.rundir import all_events, read_spec
from engine.programs import one_step as programs_one_step
from engine.programs.one_step import BATCHES, ORDER, ROWS, measured, one_step, rows_choose
from engine.rows.examples import Example
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


def ordered(
    tmp_path: Path,
    tiny: Path,
    recipe: str,
    tokens: int,
    *,
    rows: list[dict[str, Any]] | None = None,
    order: dict[str, Any] | None = None,
    **given: Any,
) -> Path:
    """tokens: of each row. order: what is ordered otherwise."""
    folder = prepare(
        tmp_path / "step",
        tiny,
        rows or rows_for(recipe),
        recipe=recipe,
        format=FORMATS.get(recipe, "messages"),
        **OWN.get(recipe, {}) | given,
    )
    usual = {
        "tokens": 4 * tokens,
        "longest": tokens,
        "batch": 4,
        "rows": 2 if recipe == "grpo" else 4,
        "limit": 64,
        "packed": False,
        "prompts": recipe in OWN,
        "steps": 1 if recipe in OWN else 2,
        "iterations": 1,
    }
    (folder / ORDER).write_text(json.dumps(usual | (order or {})))
    return folder


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_of_every_method_is_measured(tiny, tmp_path, recipe):
    folder = ordered(tmp_path, tiny, recipe, tokens=40)
    found = one_step(folder)

    assert found["peak_bytes"] > 100 * 2**20
    assert found["step_seconds"] > 0
    assert found["device"]["kind"] in ("cpu", "cuda")
    # Its rows are those of the wanted length, and as many as its steps take.
    answer = WRITING["max_completion_tokens"] if recipe in OWN else 0
    assert (found["batch"]["rows"], found["batch"]["answer"]) == (4, answer)
    assert 20 <= found["batch"]["longest"] - answer <= 64
    assert 3 * found["batch"]["longest"] < found["batch"]["tokens"]
    assert found["batch"]["tokens"] <= 4 * found["batch"]["longest"]
    assert len((folder / ROWS).read_text().splitlines()) >= (2 if recipe == "grpo" else 4)


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


def questions(*words: int) -> list[dict[str, Any]]:
    """Rows whose questions have so many words, with the same short answer."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"{number} " + "ball " * count},
                {"role": "assistant", "content": "It is red."},
            ]
        }
        for number, count in enumerate(words)
    ]


def lengths_of(folder: Path, words: int, limit: int) -> int:
    """Tokens of a row of questions(words)."""
    spec = read_spec(folder)
    renderer = Renderer(
        tokenizer_load(Path(spec.base_model_path)), system_prompt="", warn=lambda code, text: None
    )
    messages = questions(words)[0]["messages"]
    return min(limit, len(renderer.tokens(Example(messages=messages)).ids))


def test_the_batch_of_a_step_has_the_tokens_that_were_wanted(tiny, tmp_path):
    """Though one of its rows has most of them, and no row is as long as the mean."""
    limit = 128
    rows = questions(*[3] * 30, *[18] * 6)
    folder = ordered(
        tmp_path, tiny, "sft", 1, rows=rows, batch_size=4, max_tokens=limit, precision="fp32"
    )
    long, short = (lengths_of(folder, count, limit) for count in (18, 3))
    order = {"tokens": long + 3 * short, "longest": long, "limit": limit, "steps": 6}
    (folder / ORDER).write_text(json.dumps(json.loads((folder / ORDER).read_text()) | order))
    found = one_step(folder)["batch"]

    assert long > 3 * short
    assert found["rows"] == 4
    assert found["tokens"] == pytest.approx(order["tokens"], rel=0.05)
    assert found["longest"] == pytest.approx(long, rel=0.05)
    # All batches are like that.
    seen = [json.loads(line)["tokens"] for line in (folder / BATCHES).open()]
    assert len(seen) == 6
    assert min(seen) == pytest.approx(found["tokens"], rel=0.05)


def test_packed_sequences_of_a_step_are_full(tiny, tmp_path):
    limit = 128
    folder = ordered(
        tmp_path,
        tiny,
        "sft",
        limit,
        rows=questions(*[1, 2, 3, 4, 5] * 40),
        order={"limit": limit, "packed": True, "longest": 30},
        batch_size=4,
        max_tokens=limit,
        packing=True,
    )
    found = one_step(folder)["batch"]

    assert found["rows"] == 4
    assert 0.95 * 4 * limit <= found["tokens"] <= 4 * limit
    assert found["longest"] < 60


def test_the_seconds_are_those_of_the_step():
    """By what the trainer counted: of 40 prompts each of four steps counts a quarter."""

    def step(epoch: float, rate: float) -> dict[str, Any]:
        values = {"samples_per_second": rate, "peak_memory_gb": 1.0}
        return {"type": "metrics", "split": "train", "epoch": epoch, "values": values}

    started = {"type": "started", "device": {}, "train_rows": 40}
    # The first takes 10 s, the second one.
    events = [started, step(0.25, 1.0), step(0.5, 10.0)]

    assert measured(events, 1)["step_seconds"] == 1.0
    assert measured(events, 4)["step_seconds"] == (10.0 + 3 * 1.0) / 4
    assert measured(events[:2], 1)["step_seconds"] == 10.0


def test_the_longest_row_is_found_wherever_it_is(tiny, tmp_path, monkeypatch):
    """And no row is read behind those that are as long as is wanted."""
    order = {"longest": 1024, "tokens": 1024 + 3 * 30, "limit": 1024}
    late = ordered(tmp_path, tiny, "sft", 1, rows=questions(*[3] * 4100, 200), order=order)
    chosen = rows_choose(read_spec(late), json.loads((late / ORDER).read_text()))

    assert max(row.number for row in chosen) == 4100
    assert chosen[0].number == 4100
    assert len(chosen) == 8

    # A file that takes too long to read is not read to its end.
    monkeypatch.setattr(programs_one_step, "LOOK_SECONDS", 0.0)
    order_late = json.loads((late / ORDER).read_text())
    assert max(row.number for row in rows_choose(read_spec(late), order_late)) == 0
    monkeypatch.undo()

    early = json.loads((late / ORDER).read_text()) | {"longest": chosen[1].tokens, "steps": 1}
    early["tokens"] = 4 * chosen[1].tokens
    numbers = [row.number for row in rows_choose(read_spec(late), early)]
    assert len(numbers) == 4
    assert max(numbers) < 100


def test_rows_that_keep_no_answer_are_not_taken(tiny, tmp_path):
    order = {"longest": 40, "tokens": 160, "limit": 40}
    folder = ordered(tmp_path, tiny, "sft", 1, rows=questions(*[200] * 9, *[2] * 9), order=order)
    chosen = rows_choose(read_spec(folder), json.loads((folder / ORDER).read_text()))

    assert {row.number >= 9 for row in chosen} == {True}


def test_a_row_is_repeated_where_there_are_fewer_than_a_batch(tiny, tmp_path):
    folder = ordered(tmp_path, tiny, "sft", tokens=10_000, batch_size=4)
    Path(folder / "data.jsonl").write_text(json.dumps(toy_rows(1)[0]) + "\n")
    # The row alone is the dataset now; the spec's hash of it is not looked at here.
    found = one_step(folder)

    assert found["batch"]["longest"] < 100
    assert len(set((folder / ROWS).read_text().splitlines())) == 1


def test_a_failing_step_says_why(tiny, tmp_path):
    folder = ordered(tmp_path, tiny, "sft", tokens=40, target_modules=["nothing"])

    with pytest.raises(RuntimeError, match="target modules"):
        one_step(folder)

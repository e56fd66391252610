"""Held-out prompts: which rows they are, how they are looked through, and who sees them."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.ownership import sharing_set
from core.store import datasets_folder, runs_folder
from datasets_app import preview
from datasets_app.checking import dataset_check
from datasets_app.models import Dataset
from engine.contract.arithmetic import holdout_rows
from engine.contract.rundir import held_out_write
from methods.models import TrainingMethod
from models_app.models import BaseModel
from playground.prompts import ROWS, Prompts, prompts_of
from training.models import Sample, TrainRun

API = "/api/v1/conversations/prompts/"


def row(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello?"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": f"Question {number}?"},
            {"role": "assistant", "content": f"Answer {number}."},
        ]
    }


ONE_BAD = {3: {"messages": []}}


def lines(count: int, changed: dict[int, Any]) -> str:
    rows = [changed.get(number, row(number)) for number in range(count)]
    return "".join(json.dumps(one) + "\n" for one in rows)


@pytest.fixture
def make_dataset(alice, warm_programs) -> Callable[..., Dataset]:
    shutil.rmtree(datasets_folder(), ignore_errors=True)

    def make(count: int, changed: dict[int, Any] | None = None, **fields: Any) -> Dataset:
        values = {
            "owner": alice,
            "name": "Help",
            "slug": f"help-{count}",
            "file_name": "help.jsonl",
            "file_type": "jsonl",
            "size_bytes": 1,
            "sha256": "0" * 64,
        }
        dataset = Dataset.objects.create(**values | fields)
        dataset.path.parent.mkdir(parents=True)
        dataset.path.write_text(lines(count, changed or {}))
        dataset_check(dataset.pk)
        dataset.refresh_from_db()
        assert (dataset.status, dataset.row_count) == ("ready", count)
        return dataset

    return make


@pytest.fixture
def make_run(alice, make_model) -> Callable[..., TrainRun]:
    shutil.rmtree(runs_folder(), ignore_errors=True)
    model = make_model("Tiny")

    def make(dataset: Dataset, **fields: Any) -> TrainRun:
        values = {
            "owner": alice,
            "name": "helper",
            "method": TrainingMethod.objects.get(slug="lora"),
            "base_model": BaseModel.objects.get(pk=model.pk),
            "dataset": dataset,
            "parameters": {"evaluation_split": 0.25, "seed": 42, "max_samples": None},
        }
        run = TrainRun.objects.create(**values | fields)
        run.directory.mkdir(parents=True)
        return run

    return make


def numbers(found: Prompts) -> list[int]:
    return [int(prompt.text.split()[1].strip("?")) for prompt in found.prompts]


def all_of(run: TrainRun, reader: Any, search: str = "") -> list[int]:
    """Page after page."""
    found = prompts_of(f"train-{run.pk}", reader, search=search)
    seen = numbers(found)
    while found.next:
        found = prompts_of(f"train-{run.pk}", reader, found.next, search)
        seen += numbers(found)
    return seen


@pytest.mark.parametrize("small_bytes", [preview.SMALL_BYTES, 0])
def test_the_rows_that_a_train_held_out_are_offered(
    make_dataset, make_run, alice, monkeypatch, small_bytes
):
    """Read here, and by a program as large files are."""
    monkeypatch.setattr(preview, "SMALL_BYTES", small_bytes)
    run = make_run(make_dataset(2500, ONE_BAD))
    draw = random.Random(7)
    held_out = sorted(draw.sample(range(4, 2500), 60))
    held_out_write(run.directory, held_out)

    first = prompts_of(f"train-{run.pk}", alice)
    assert len(first.prompts) == ROWS
    assert "60 rows of Help" in first.note
    prompt = first.prompts[0]
    assert (prompt.reference, prompt.system) == (f"Answer {held_out[0]}.", "Be brief.")
    assert (prompt.earlier, prompt.is_cut) == (2, False)
    assert all_of(run, alice) == held_out

    some = held_out[30]
    assert all_of(run, alice, f"ANSWER {some}.") == [some]
    nothing = prompts_of(f"train-{run.pk}", alice, search="nowhere")
    assert (nothing.prompts, nothing.next, nothing.can_search) == ([], "", True)


def test_a_train_from_before_they_were_written_down_draws_them_again(make_dataset, make_run, alice):
    dataset = make_dataset(40)
    facts = {"train_rows": 30, "eval_rows": 10, "left_out_rows": 0}
    run = make_run(dataset, facts=facts)
    drawn = sorted(random.Random(42).sample(range(40), holdout_rows(40, 0.25)))
    assert all_of(run, alice) == drawn

    limited = make_run(
        dataset,
        facts=facts | {"train_rows": 15},
        parameters={"evaluation_split": 0.25, "seed": 42, "max_samples": 20},
    )
    assert max(all_of(limited, alice)) < 20


@pytest.mark.parametrize(
    ("facts", "changed"),
    [
        ({"train_rows": 29, "left_out_rows": 1}, {}),
        ({"train_rows": 29, "left_out_rows": 0}, {}),
        ({"train_rows": 30, "left_out_rows": 0}, ONE_BAD),
        ({}, {}),
    ],
)
def test_where_nobody_knows_which_rows_they_were_its_sample_prompts_are_offered(
    make_dataset, make_run, alice, facts, changed
):
    run = make_run(make_dataset(40, changed), facts=facts | {"eval_rows": 10})
    for index in range(3):
        values = {"prompt": f"Question {index}?", "reference": "So.", "stage": "before"}
        Sample.objects.create(run=run, seq=index, index=index, **values)
    found = prompts_of(f"train-{run.pk}", alice)
    assert numbers(found) == [0, 1, 2]
    assert "sample prompts that it answered" in found.note
    assert numbers(prompts_of(f"train-{run.pk}", alice, search="question 2")) == [2]


def test_of_a_train_with_an_evaluation_dataset_its_rows_are_offered(make_dataset, make_run, alice):
    evaluation = make_dataset(60, ONE_BAD)
    run = make_run(make_dataset(40), evaluation_dataset=evaluation)
    assert all_of(run, alice) == [number for number in range(60) if number != 3]
    expected = [5, *range(50, 60)]
    assert all_of(run, alice, "Answer 5") == expected
    assert "60" not in prompts_of(f"train-{run.pk}", alice).note


def test_only_who_may_see_the_dataset_sees_its_rows(
    make_dataset, make_run, alice, bob, olga, client
):
    for fields in ({}, {"evaluation_dataset": make_dataset(30)}):
        run = make_run(make_dataset(40 + len(fields)), **fields)
        held_out_write(run.directory, [5, 6])
        sharing_set(run, by=olga, shared=True)
        assert numbers(prompts_of(f"train-{run.pk}", alice))
        assert prompts_of(f"train-{run.pk}", bob).prompts == []
        client.force_login(bob)
        seen = client.get(API, {"target": f"train-{run.pk}", "search": "Question"})
        assert (seen.status_code, seen.json()["prompts"]) == (200, [])


@pytest.mark.parametrize("after", ["x", "-1", "9" * 40, "²", "1-2-3", "\x00"])
def test_a_place_that_is_none_is_the_beginning(make_dataset, make_run, alice, client, after):
    run = make_run(make_dataset(40))
    held_out_write(run.directory, [5, 6])
    client.force_login(alice)
    seen = client.get(API, {"target": f"train-{run.pk}", "after": after})
    assert [prompt["text"] for prompt in seen.json()["prompts"]] == ["Question 5?", "Question 6?"]


@pytest.mark.parametrize("text", ['{"rows": [-1]}', '{"rows": [1.5]}', "[1]", "{", '{"rows": 7}'])
def test_a_list_of_rows_that_cannot_be_read_is_none(make_dataset, make_run, alice, text):
    run = make_run(make_dataset(40))
    Path(run.directory / "held-out.json").write_text(text)
    assert prompts_of(f"train-{run.pk}", alice).prompts == []


def test_a_question_too_long_to_be_shown_is_not_taken_for_the_whole(make_dataset, make_run, alice):
    long = row(7)
    long["messages"][3]["content"] = "Question 7? " + "x" * preview.TEXT_LIMIT
    run = make_run(make_dataset(40, {7: long}))
    held_out_write(run.directory, [6, 7])
    found = prompts_of(f"train-{run.pk}", alice)
    assert [prompt.is_cut for prompt in found.prompts] == [False, True]


def test_a_dataset_whose_file_is_gone_has_none(make_dataset, make_run, alice):
    run = make_run(make_dataset(40))
    held_out_write(run.directory, [5, 6])
    run.dataset.path.unlink()
    assert prompts_of(f"train-{run.pk}", alice).prompts == []

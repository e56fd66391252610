"""The demo dataset: what `make demo` trains on, and how it judges the answers."""

import json

import pytest
from django.core.management.base import CommandError
from rest_framework.test import RequestsClient

from accounts.tokens import token_create
from engine.rows.examples import to_example
from engine.rows.format_detection import detect_format
from models_app.models import BaseModel
from training.management.commands import demo
from training.train.demo_rows import CASES, FRAMES, demo_jsonl, follows_format


def test_every_row_can_be_learned_from_and_its_answer_is_in_the_house_format():
    rows = [json.loads(line) for line in demo_jsonl().splitlines()]
    name, columns = detect_format(list(rows[0]), rows)

    assert len(rows) == len(CASES) * len(FRAMES) == 90
    assert len({row["prompt"] for row in rows}) == 90
    for row in rows:
        question, answer = to_example(row, name, columns).messages
        assert (question["role"], answer["role"]) == ("user", "assistant")
        assert follows_format(answer["content"])


def test_other_answers_are_not_taken_for_the_house_format():
    good = "Topic: Repair\nAnswer: Yes.\nNext step: Call."
    assert follows_format(good)
    assert not follows_format("I am sorry to hear that.")
    assert not follows_format(good + "\nMore.")
    assert not follows_format(good.replace("Next step: ", "Then "))


def test_a_merge_that_failed_is_tried_again_however_many_models_there_are(olga, monkeypatch):
    for number in range(30):
        BaseModel.objects.create(
            owner=olga,
            name=f"Model {number:02}",
            slug=f"model-{number}",
            source="train",
            status="failed" if number == 29 else "ready",
            trained_from={"train": number, "step": 0},
        )

    api = demo.Api()
    api.session = RequestsClient()
    api.session.headers["Authorization"] = f"Token {token_create(user=olga, name='demo')[1]}"
    assert demo.Command().model(api, {"id": 28})["name"] == "Model 28"

    monkeypatch.setattr(demo, "MODEL_SECONDS", 0)
    with pytest.raises(CommandError, match="was not ready"):
        demo.Command().model(api, {"id": 29})
    assert BaseModel.objects.count() == 30
    assert BaseModel.objects.get(name="Model 29").status == "importing"

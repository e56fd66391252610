"""The form and the start say the same: whatever stops a train is said before anybody presses the
button, and at the same field."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from core.errors import UserError
from engine.contract.rundir import checkpoint_seal
from engine.doctor.finding_kinds import TOOL_CALLS
from methods.models import TrainingMethod
from methods.services import method_defaults
from training.form.preview import train_preview
from training.models import TrainRun
from training.train.branching import Origin
from training.train.services import train_create

Choices = dict[str, Any]
Usage = namedtuple("Usage", "total used free")


def row_change(name: str, **values: Any) -> Callable[..., Choices]:
    """A refusal that comes from a row's own state."""

    def change(choices: Choices, **_: Any) -> Choices:
        row = choices[name]
        for field, value in values.items():
            setattr(row, field, value)

        row.save()
        return {}

    return change


def parameters(**values: Any) -> Callable[..., Choices]:
    return lambda choices, **_: {"parameters": values}


def model_files_gone(choices: Choices, **_: Any) -> Choices:
    shutil.rmtree(choices["base_model"].path)
    return {}


def dataset_file_gone(choices: Choices, **_: Any) -> Choices:
    choices["dataset"].path.unlink()
    return {}


def measured_on_itself(choices: Choices, **_: Any) -> Choices:
    return {"evaluation_dataset": choices["dataset"]}


def rewards(choices: Choices, *choice: dict[str, Any]) -> Choices:
    return {
        "method": TrainingMethod.objects.get(slug="grpo"),
        "parameters": {"rewards": list(choice)},
    }


def reward_model_of_a_stranger(choices: Choices, make_train, bob, **_: Any) -> Choices:
    scorer = make_train(
        owner=bob, method=TrainingMethod.objects.get(slug="reward"), status="finished"
    )
    return rewards(
        choices, {"function": "reward_model", "weight": 1.0, "parameters": {"model": scorer.pk}}
    )


def after_a_failed_train(choices: Choices, make_train, **_: Any) -> Choices:
    return {"starts_after": make_train(status="failed")}


def no_space(choices: Choices, monkeypatch, **_: Any) -> Choices:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10, 10, 0))
    return {}


def branch(choices: Choices, make_train, **changes: Any) -> Choices:
    """From step 4 of another train of the same kind."""
    method = choices["method"]
    run = make_train(method=method, status="finished", parameters=method_defaults(method))
    folder = run.directory / "checkpoints" / "checkpoint-4"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_text("weights")
    checkpoint_seal(folder)
    return {"branch": Origin(run, 4)} | changes


def branch_of_another_method(choices: Choices, make_train, **_: Any) -> Choices:
    other = TrainingMethod.objects.get(slug="dpo")
    choices["dataset"].format = "preference"
    choices["dataset"].save()
    return branch(choices, make_train, method=other)


def branch_of_another_rank(choices: Choices, make_train, **_: Any) -> Choices:
    return branch(choices, make_train, parameters={"lora_rank": 4})


def branch_without_checkpoint(choices: Choices, make_train, **_: Any) -> Choices:
    origin = branch(choices, make_train)["branch"]
    return {"branch": Origin(origin.run, 5)}


def branch_of_a_damaged_checkpoint(choices: Choices, make_train, **_: Any) -> Choices:
    changes = branch(choices, make_train)
    # Read once while it was whole, as the form does.
    assert train_preview(**choices | changes)["ok"]
    folder = changes["branch"].run.directory / "checkpoints" / "checkpoint-4"
    (folder / "adapter_model.safetensors").write_text("damaged")
    return changes


REFUSALS: dict[str, tuple[str, Callable[..., Choices]]] = {
    "a retired method": ("method", row_change("method", retired_at=timezone.now())),
    "an archived model": ("base_model", row_change("base_model", archived_at=timezone.now())),
    "a model that is not ready": ("base_model", row_change("base_model", status="failed")),
    "a model without its files": ("base_model", model_files_gone),
    "tool calls without a template": (
        "base_model",
        row_change("dataset", findings=[{"kind": TOOL_CALLS}]),
    ),
    "an archived dataset": ("dataset", row_change("dataset", archived_at=timezone.now())),
    "a dataset in the check": ("dataset", row_change("dataset", status="checking")),
    "a dataset that failed": ("dataset", row_change("dataset", status="failed")),
    "a dataset of another format": ("dataset", row_change("dataset", format="preference")),
    "a dataset without its file": ("dataset", dataset_file_gone),
    "no row to train on": ("dataset", row_change("dataset", row_count=0)),
    "the training data as evaluation data": ("evaluation_dataset", measured_on_itself),
    "a value out of bounds": ("learning_rate", parameters(learning_rate=0)),
    "no parameter of the method": ("nonsense", parameters(nonsense=1)),
    "a batch larger than the data": ("batch_size", parameters(batch_size=64)),
    "layers that the model lacks": ("target_modules", parameters(target_modules=["nothing"])),
    "the reward model of a stranger": ("rewards", reward_model_of_a_stranger),
    "a priority for operators": (
        "priority",
        lambda choices, **_: {"priority": TrainRun.Priority.HIGH},
    ),
    "a train that will never succeed": ("after", after_a_failed_train),
    "a label that is too long": ("labels", lambda choices, **_: {"labels": ["x" * 41]}),
    "too many labels": ("labels", lambda choices, **_: {"labels": map(str, range(21))}),
    "no space on the disk": ("", no_space),
    "a branch of another method": ("method", branch_of_another_method),
    "a branch of another shape": ("lora_rank", branch_of_another_rank),
    "a branch without its checkpoint": ("branch_step", branch_without_checkpoint),
    "a branch of a damaged checkpoint": ("branch_step", branch_of_a_damaged_checkpoint),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_the_form_says_what_the_start_refuses(name, choices, make_train, bob, monkeypatch):
    field, change = REFUSALS[name]
    choices |= change(choices, make_train=make_train, bob=bob, monkeypatch=monkeypatch)
    if "labels" in choices:
        choices["labels"] = list(choices["labels"])

    preview = train_preview(**choices)
    with pytest.raises(UserError) as refusal:
        train_create(name="refused", **choices)

    assert field in refusal.value.fields
    assert preview["errors"] == refusal.value.fields
    assert not preview["ok"]


def test_the_form_says_ok_where_the_start_begins_a_train(choices, make_train):
    choices |= branch(choices, make_train) | {
        "priority": TrainRun.Priority.LOW,
        "starts_after": make_train(status="running"),
        "labels": ["toys, small"],
    }

    assert train_preview(**choices)["ok"]
    _, is_new = train_create(name="started", **choices)
    assert is_new


def test_every_reason_is_given_at_once(choices):
    with pytest.raises(UserError) as refusal:
        train_create(
            name="refused",
            **choices
            | {
                "parameters": {"learning_rate": 0},
                "priority": TrainRun.Priority.HIGH,
                "labels": ["x" * 41],
            },
        )

    assert sorted(refusal.value.fields) == ["labels", "learning_rate", "priority"]
    assert refusal.value.status == 400


def test_a_full_disk_keeps_its_code_where_nothing_else_is_wrong(choices, monkeypatch):
    no_space(choices, monkeypatch)

    with pytest.raises(UserError) as refusal:
        train_create(name="refused", **choices)

    assert (refusal.value.code, refusal.value.status) == ("no_disk_space", 507)


def test_the_api_says_so_of_a_plan_too(choices, client, alice):
    client.force_login(alice)
    body = {
        "method": "lora",
        "base_model": "tiny",
        "dataset": "toys",
        "priority": "high",
        "labels": ["x" * 41],
    }

    answer = client.post("/api/v1/trains/plan/", body, content_type="application/json").json()

    assert not answer["ok"]
    assert sorted(answer["errors"]) == ["labels", "priority"]

"""/api/v1/sweeps/: start, follow and change a sweep, and what is said against one. Its contract is
held by tests/api."""

from __future__ import annotations

import pytest

from sweeps.models import Sweep
from tests.sweeps.conftest import advance, all_trained
from tests.sweeps.test_advancing import score
from training.models import TrainRun

PATH = "/api/v1/sweeps/"


@pytest.fixture
def caller(client, alice, model, toys):
    client.force_login(alice)
    return client


@pytest.fixture
def body(model, toys):
    return {
        "name": "Rates",
        "method": "lora",
        "base_model": "tiny",
        "dataset": "toys",
        "parameters": {"lora_rank": 8},
        "space": {"learning_rate": {"values": [1e-4, 2e-4]}},
        "pruner": "median",
    }


def post(caller, path, body=None, **headers):
    return caller.post(path, body or {}, "application/json", headers=headers)


def test_a_sweep_is_started_and_followed(caller, body):
    plan = post(caller, f"{PATH}plan/", body).json()
    assert plan == {"ok": True, "errors": {}, "trains": 2, "combinations": 2}
    assert not Sweep.objects.exists()

    answer = post(caller, PATH, body, **{"Idempotency-Key": "k"})
    assert answer.status_code == 201
    again = post(caller, PATH, body, **{"Idempotency-Key": "k"})
    assert (again.status_code, again.json()["id"]) == (200, answer.json()["id"])

    sweep = Sweep.objects.get()
    all_trained(sweep, score)
    seen = caller.get(f"{PATH}{sweep.pk}/").json()
    assert (seen["status"], seen["search"], seen["metric"]) == ("succeeded", "grid", "eval_loss")
    assert [train["state"] for train in seen["trains"]] == ["complete", "complete"]
    assert seen["best"]["values"] == {"learning_rate": 2e-4}
    assert seen["best"]["train"] in TrainRun.objects.values_list("pk", flat=True)
    assert caller.get(f"{PATH}?status=succeeded").json()["count"] == 1
    assert caller.get(f"{PATH}?status=running").json()["count"] == 0
    assert caller.patch(f"{PATH}{sweep.pk}/", {"name": "New"}, "application/json").json()[
        "name"
    ] == ("New")
    assert caller.delete(f"{PATH}{sweep.pk}/").status_code == 204


def test_its_parameters_are_those_that_were_given(caller, body):
    """So that they can be posted again, beside defaults that are others by then."""
    body["parameters"] = {"lora_rank": 8, "weight_decay": 0.01}
    sweep = post(caller, PATH, body).json()
    assert sweep["parameters"] == body["parameters"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"space": {}}, "space"),
        ({"space": {"learning_rate": {"values": [1e-4]}}}, "space.learning_rate"),
        ({"space": {"learning_rate": 3}}, "space.learning_rate"),
        ({"space": {"learning_rate": {"values": [1e-4, 9]}}}, "space.learning_rate"),
        ({"space": {"\0": {"values": [1, 2]}}}, "space.\ufffd"),
        ({"parameters": {"lora_rank": 0}}, "parameters.lora_rank"),
        ({"parameters": {"learning_rate": 1e-4}}, "space.learning_rate"),
        ({"dataset": "nowhere"}, "dataset"),
        ({"search": "tpe"}, "budget_trains"),
        ({"search": "bayes"}, "search"),
        ({"metric": "reward"}, "metric"),
        ({"after": 99}, "after"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_as_in_the_body(caller, body, changes, field):
    answer = post(caller, PATH, body | changes)
    assert answer.status_code == 400
    assert list(answer.json()["error"]["fields"]) == [field]
    assert not Sweep.objects.exists()


def test_it_is_paused_continued_and_stopped(caller, body, client, bob):
    pk = post(caller, PATH, body).json()["id"]
    advance(Sweep.objects.get())
    for name, status in (("pause", "paused"), ("continue", "running"), ("stop", "stopped")):
        assert post(caller, f"{PATH}{pk}/{name}/").json()["status"] == status
    assert post(caller, f"{PATH}{pk}/pause/").status_code == 400
    assert [train["train_status"] for train in caller.get(f"{PATH}{pk}/").json()["trains"]] == [
        "stopped",
        "stopped",
    ]
    Sweep.objects.update(shared=True)
    client.force_login(bob)
    shared = client.get(f"{PATH}{pk}/").json()
    assert [train["train"] for train in shared["trains"]] == [None, None]
    assert post(client, f"{PATH}{pk}/continue/").status_code == 403

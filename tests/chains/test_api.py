"""/api/v1/chains/: what it takes and refuses, and by which names."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from chains.models import Chain
from datasets_app.models import Dataset
from tests.chains.conftest import advance, measure, run_of, train_end

PATH = "/api/v1/chains/"
JSON = "application/json"


@pytest.fixture
def body(model, toys, pairs) -> dict:
    first = {"method": "lora", "base_model": "tiny", "dataset": "toys", "name": "first"}
    gate = {"kind": "at_most", "metric": "eval_loss", "value": 1.5}
    second = {"method": "dpo", "dataset": pairs.pk, "parameters": {"epochs": 1}}
    return {"name": "Support", "stages": [first | {"gate": gate}, second]}


@pytest.fixture
def caller(client, alice):
    client.force_login(alice)
    return client


def test_a_chain_is_ordered_and_tells_how_it_stands(caller, body):
    answer = caller.post(PATH, body, JSON)
    assert answer.status_code == 201, answer.content
    chain_json = answer.json()
    assert (chain_json["status"], chain_json["owner"], chain_json["priority"]) == (
        "running",
        "alice",
        "normal",
    )
    first, second = chain_json["stages"]
    assert (first["train_status"], first["base_model"]) == ("queued", "tiny")
    assert (second["train"], second["base_model"], second["start"]) == (None, None, "merged")
    assert first["gate"]["passed"] is None
    assert chain_json["activity"].startswith("Stage 1 of 2: It waits")
    assert caller.get(f"{PATH}{chain_json['id']}/").json() == chain_json
    assert caller.get(f"{PATH}?status=running").json()["count"] == 1
    assert caller.get(f"{PATH}?status=stopped").json()["count"] == 0


def test_a_call_that_is_sent_again_orders_nothing_twice(caller, body):
    key = {"Idempotency-Key": "once"}
    first = caller.post(PATH, body, JSON, headers=key)
    again = caller.post(PATH, body, JSON, headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert caller.post(PATH, body, JSON).status_code == 201
    assert Chain.objects.count() == 2


BOUND = {"kind": "at_most", "metric": "eval_loss"}
WRONG = [
    (1, {"method": "lora"}, "stages.1.dataset", "cannot read the format"),
    (1, {"dataset": "nothing"}, "stages.1.dataset", "no dataset"),
    (1, {"parameters": {"learning_rate": 7}}, "stages.1.parameters.learning_rate", "Stage 2: "),
    (1, {"parameters": {"odd": 7}}, "stages.1.parameters.odd", "Stage 2: "),
    (1, {"base_model": "tiny"}, "stages.1.base_model", "Only the first"),
    (0, {"base_model": None}, "stages.0.base_model", "Stage 1: Choose a base model"),
    (0, {"gate": {"kind": "at_most", "metric": "odd"}}, "stages.0.gate.metric", "measures"),
    (0, {"gate": {"kind": "at_least", "metric": "loss"}}, "stages.0.gate.value", "number"),
    (0, {"gate": {"kind": "odd"}}, "stages.0.gate.kind", "not a valid choice"),
    (0, {"gate": BOUND | {"value": "nan"}}, "stages.0.gate.value", "Give a number."),
    (1, {"gate": BOUND | {"value": "-inf"}}, "stages.1.gate.value", "Give a number."),
    (0, {"start": "adapter"}, "stages.0.start", "Stage 1: Tiny was not trained here"),
    (1, {"parameters": {"optim": ["a\x00"]}}, "stages.1.parameters.optim", "Null characters"),
    (1, {"parameters": {"o\x00": 1}}, "stages.1.parameters.o\ufffd", "Null characters"),
    (
        1,
        {"method": "sft", "dataset": "toys", "start": "adapter"},
        "stages.1.start",
        "All weights are trained",
    ),
    (0, {"method": "reward", "dataset": "pairs"}, "stages.0.method", "can only be last"),
    (
        0,
        {"gate": {"kind": "better"}, "parameters": {"evaluation_split": 0}},
        "stages.0.gate.kind",
        "held out",
    ),
]


@pytest.mark.parametrize(("index", "change", "field", "words"), WRONG, ids=str)
def test_what_is_wrong_is_said_by_stage_and_field(caller, body, index, change, field, words):
    body["stages"][index] |= change
    answer = caller.post(PATH, body, JSON)
    assert answer.status_code == 400, answer.content
    fields = answer.json()["error"]["fields"]
    assert field in fields, fields
    assert words.lower() in " ".join(fields[field]).lower()
    assert not Chain.objects.exists()


ADAPTERS = [
    ({}, {"lora_rank": 16}, "", ""),
    ({"lora_rank": 8}, {}, "", ""),
    ({"lora_rank": 8}, {"lora_rank": 16}, "stages.1.parameters.lora_rank", "stage 1 has 8"),
    (None, {}, "stages.1.start", "trains all weights"),
    ({}, {"adapter": "none"}, "stages.1.start", "All weights are trained"),
]


@pytest.mark.parametrize(("first", "second", "field", "words"), ADAPTERS, ids=str)
def test_an_adapter_can_be_carried_on_where_there_will_be_one(
    caller, body, first, second, field, words
):
    """first, second: parameters; None for a first stage that trains all weights."""
    body["stages"][0] |= {"method": "sft"} if first is None else {"parameters": first}
    body["stages"][1] |= {"parameters": second, "start": "adapter"}
    answer = caller.post(PATH, body, JSON)
    if not field:
        assert answer.status_code == 201, answer.content
        assert answer.json()["stages"][1]["start"] == "adapter"
        return

    fields = answer.json()["error"]["fields"]
    assert words in " ".join(fields[field])


@pytest.mark.parametrize("count", [0, 1, 21])
def test_a_chain_has_two_stages_at_least_and_no_end_of_them(caller, body, count):
    body["stages"] = [body["stages"][0]] * count
    answer = caller.post(PATH, body, JSON)
    assert (answer.status_code, set(answer.json()["error"]["fields"])) == (400, {"stages"})


def test_what_one_cannot_see_is_not_there(caller, body, bob):
    Dataset.objects.filter(slug="pairs").update(owner=bob)
    answer = caller.post(PATH, body, JSON)
    assert set(answer.json()["error"]["fields"]) == {"stages.1.dataset"}


def test_a_chain_stops_goes_on_and_is_cancelled(caller, body):
    pk = caller.post(PATH, body, JSON).json()["id"]
    chain = Chain.objects.get(pk=pk)
    measure(run_of(chain), 2.0, 1.75)
    train_end(run_of(chain))
    advance(chain)

    chain_json = caller.get(f"{PATH}{pk}/").json()
    gate = chain_json["stages"][0]["gate"]
    assert (chain_json["status"], gate["passed"], gate["measured"]) == ("stopped", False, 1.75)
    assert "if the eval loss of stage 1 is at most 1.5, but it was 1.75" in chain_json["reason"]

    chain_json = caller.post(f"{PATH}{pk}/go-on/", {}, JSON).json()
    assert (chain_json["status"], chain_json["stages"][0]["gate"]["waived"]) == ("running", True)
    assert caller.delete(f"{PATH}{pk}/").status_code == 400
    assert caller.post(f"{PATH}{pk}/cancel/").json()["status"] == "cancelled"
    refused = caller.post(f"{PATH}{pk}/go-on/", {}, JSON)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "wrong_state")
    assert caller.delete(f"{PATH}{pk}/").status_code == 204


def test_a_copy_is_a_draft_that_can_be_run(caller, body):
    pk = caller.post(PATH, body, JSON).json()["id"]
    copy = caller.post(f"{PATH}{pk}/copy/", {"name": "Once more"}, JSON).json()
    assert (copy["status"], copy["name"]) == ("draft", "Once more")
    assert caller.patch(f"{PATH}{copy['id']}/", {"name": "Again"}, JSON).json()["name"] == "Again"
    chain_json = caller.post(f"{PATH}{copy['id']}/run/").json()
    assert (chain_json["status"], chain_json["stages"][0]["train_status"]) == ("running", "queued")
    assert caller.post(f"{PATH}{copy['id']}/run/").status_code == 400


def test_a_first_stage_carries_the_adapter_of_its_base_model_on(caller, body, tuned):
    body["stages"][0] |= {"base_model": "tuned", "start": "adapter"}
    body["stages"][1] |= {"start": "adapter", "parameters": {"lora_rank": 16}}
    refused = caller.post(PATH, body, JSON).json()["error"]["fields"]
    assert "stage 1 has 8" in " ".join(refused["stages.1.parameters.lora_rank"])

    body["stages"][1]["parameters"] = {}
    answer = caller.post(PATH, body, JSON)
    assert answer.status_code == 201, answer.content
    assert [stage["start"] for stage in answer.json()["stages"]] == ["adapter", "adapter"]
    run = run_of(Chain.objects.get())
    assert (run.continue_adapter, run.parameters["lora_rank"]) == (True, 8)


def test_a_list_asks_the_database_as_often_for_many_chains_as_for_one(caller, draft, make_chain):
    def count() -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert caller.get(PATH).status_code == 200
        return len(queries)

    draft()
    train_end(run_of(make_chain()), "failed", error="-")
    for chain in Chain.objects.all():
        advance(chain)
    before = count()
    for _ in range(3):
        draft()
        train_end(run_of(make_chain()), "failed", error="-")
    for chain in Chain.objects.all():
        advance(chain)
    assert count() == before

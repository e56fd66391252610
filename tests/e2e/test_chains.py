"""Chains with real trains, merges and proofs."""

import pytest

from tests.e2e.test_after_the_train import LEARNS
from tests.e2e.test_main_job import toy_rows
from tests.engine.runs import toy_pairs, write_rows
from tests.live import Platform

pytestmark = pytest.mark.long

PAUSED = ("succeeded", "stopped", "cancelled")


@pytest.fixture(scope="module")
def toys(platform: Platform) -> dict:
    return platform.kept("toys-20.jsonl", toy_rows(20))


@pytest.fixture(scope="module")
def pairs(platform: Platform, tmp_path_factory) -> dict:
    rows = write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", toy_pairs())
    return platform.upload("chain-pairs.jsonl", rows.read_bytes())


def ordered(platform: Platform, toys: dict, pairs: dict, gate: dict, start: str) -> dict:
    """Examples first, then preferences."""
    base = platform.get("models/", origin="base")["results"][0]["slug"]
    first = {
        "name": "by examples",
        "method": "lora",
        "base_model": base,
        "dataset": toys["slug"],
        "parameters": LEARNS | {"evaluation_split": 0.2},
        "gate": gate,
    }
    second = {
        "name": "by preferences",
        "method": "dpo",
        "dataset": pairs["slug"],
        "parameters": {"max_steps": 4},
        "start": start,
    }
    answer = platform.api("POST", "chains/", json={"name": "toys", "stages": [first, second]})
    assert answer.status_code == 201, answer.text
    return answer.json()


def paused(platform: Platform, chain: dict) -> dict:
    return platform.poll(f"chains/{chain['id']}/", lambda row: row["status"] in PAUSED, seconds=300)


def test_stages_follow_each_other_though_the_housekeeping_is_killed(platform, toys, pairs):
    chain = ordered(platform, toys, pairs, {"kind": "better"}, "adapter")
    platform.poll(f"chains/{chain['id']}/", lambda row: row["stages"][0]["model"], seconds=200)
    (watch,) = platform.processes("manage.py", "watch")
    watch.kill()

    ended = paused(platform, chain)
    assert (ended["status"], ended["reason"]) == ("succeeded", "")
    first, second = ended["stages"]
    gate = first["gate"]
    assert gate["passed"]
    assert gate["measured"] < gate["measured_before"]

    run = platform.get(f"trains/{second['train']}/")
    model = platform.get(f"models/{first['model']}/")
    assert model["proof"]["passed"]
    assert (run["base_model"], run["continue_adapter"]) == (model["slug"], True)
    assert run["status"] == "finished"
    assert "by preferences" in platform.page(f"chains/{chain['id']}/")


def test_a_closed_gate_stops_a_chain_until_somebody_lets_it_go_on(platform, toys, pairs):
    gate = {"kind": "at_most", "metric": "eval_loss", "value": 0.0001}
    chain = paused(platform, ordered(platform, toys, pairs, gate, "merged"))
    assert chain["status"] == "stopped"
    measured = chain["stages"][0]["gate"]["measured"]
    assert f"is at most 0.0001, but it was {measured:.4g}" in chain["reason"]
    assert chain["stages"][1]["train"] is None
    assert "Continue anyway" in platform.page(f"chains/{chain['id']}/")

    assert platform.api("POST", f"chains/{chain['id']}/go-on/", json={}).status_code == 200
    going = platform.poll(
        f"chains/{chain['id']}/", lambda row: row["stages"][1]["train"], seconds=200
    )
    run = platform.get(f"trains/{going['stages'][1]['train']}/")
    assert run["continue_adapter"] is False
    cancelled = platform.api("POST", f"chains/{chain['id']}/cancel/").json()
    assert cancelled["status"] == "cancelled"
    assert platform.ended(run)["status"] in ("stopped", "finished")

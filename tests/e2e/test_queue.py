"""The line on a running platform: paused, reordered, robbed of its bells, and opened again."""

import pytest

from tests.e2e.test_main_job import toy_rows
from tests.live import Platform

pytestmark = pytest.mark.long

SHORT = {"max_steps": 1, "sample_prompts": 0, "evaluation_split": 0}


@pytest.fixture(scope="module")
def dataset(platform: Platform):
    return platform.kept("toys-20.jsonl", toy_rows(20))


@pytest.fixture
def paused(platform: Platform):
    answer = platform.api("POST", "queue/pause/", by="olga", json={"reason": "New disks"})
    assert answer.status_code == 200, answer.text
    yield answer.json()
    platform.api("POST", "queue/resume/", by="olga")


def move(platform: Platform, run: dict, to: str, by: str = "alice") -> int:
    answer = platform.api("POST", f"trains/{run['id']}/move/", by=by, json={"to": to})
    assert answer.status_code == 200, answer.text
    return answer.json()["queue_position"]


@pytest.mark.usefixtures("paused")
def test_trains_start_in_the_order_of_the_line_though_redis_forgot_them(platform, dataset):
    first, second, third = (
        platform.start(dataset, name=name, **SHORT) for name in ("first", "second", "third")
    )
    last = platform.api(
        "POST",
        "trains/",
        json={
            "name": "last",
            "method": "lora",
            "base_model": "tiny",
            "dataset": dataset["id"],
            "after": second["id"],
            "parameters": {"max_tokens": 64} | SHORT,
        },
    ).json()
    assert move(platform, third, "front") == 1
    assert move(platform, last, "front") == 1
    queue = platform.get("queue/")
    assert (queue["paused"], queue["paused_by"], queue["reason"]) == (True, "olga", "New disks")
    assert queue["waiting"] == [last["id"], third["id"], first["id"], second["id"]]

    platform.empty_redis()
    assert platform.api("POST", "queue/resume/").status_code == 403
    assert platform.api("POST", "queue/resume/", by="olga").json()["paused"] is False

    ended = [platform.ended(run) for run in (third, first, second, last)]
    assert [run["status"] for run in ended] == ["finished"] * 4
    begins = [run["started_at"] for run in ended]
    assert begins == sorted(begins)


@pytest.mark.usefixtures("paused")
def test_a_waiting_train_changes_how_it_waits(platform, dataset):
    run, other = (platform.start(dataset, **SHORT) for _ in range(2))
    path = f"trains/{run['id']}/"
    assert platform.api("PATCH", path, json={"priority": "low"}).json()["queue_position"] == 2
    refused = platform.api("PATCH", path, json={"priority": "high"})
    assert (refused.status_code, list(refused.json()["error"]["fields"])) == (400, ["priority"])
    assert platform.api("PATCH", path, json={"after": other["id"]}).json()["after"] == other["id"]
    circle = platform.api("PATCH", f"trains/{other['id']}/", json={"after": run["id"]})
    assert circle.json()["error"]["fields"] == {
        "after": ["These trains would wait for each other."]
    }
    unknown = platform.api("PATCH", path, json={"after": 10**6})
    assert unknown.json()["error"]["fields"] == {"after": ["There is no such train."]}
    assert (
        platform.api("PATCH", path, json={"after": None, "priority": "normal"}).json()["priority"]
        == "normal"
    )
    for started in (run, other):
        assert platform.api("POST", f"trains/{started['id']}/stop/").json()["status"] == "stopped"
    assert (
        platform.api("POST", f"trains/{run['id']}/move/", json={"to": "front"}).status_code == 400
    )

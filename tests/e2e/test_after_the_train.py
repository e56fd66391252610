"""What was trained becomes a model, is proved, and is trained on: supervised first, then by
preferences."""

import psutil
import pytest

from tests.e2e.test_main_job import toy_rows
from tests.engine.runs import toy_pairs, write_rows
from tests.live import Platform

LEARNS = {
    "max_steps": 40,
    "batch_size": 4,
    "learning_rate": 0.01,
    "save_strategy": "steps",
    "save_every": 20,
}


@pytest.fixture(scope="module")
def trained(platform: Platform):
    dataset = platform.kept("toys-20.jsonl", toy_rows(20))
    run = platform.ended(platform.start(dataset, name="first stage", **LEARNS))
    assert run["status"] == "finished", run["error"]
    return run


def merged(platform: Platform, run: dict, **body) -> dict:
    answer = platform.api("POST", f"trains/{run['id']}/merge/", json=body)
    assert answer.status_code == 202, answer.text
    return platform.poll(
        f"models/{answer.json()['model']['id']}/", lambda model: model["status"] != "importing"
    )


def test_a_trained_model_is_proved_and_trained_on(platform, trained, tmp_path):
    model = merged(platform, trained)
    assert (model["status"], model["error"]) == ("ready", "")
    assert model["proof"]["passed"] is True, model["proof"]
    assert model["trained_from"]["train"] == trained["id"]
    page = platform.page(f"models/{model['id']}/")
    assert "Same as trained" in page

    pairs = platform.upload(
        "pairs.jsonl", write_rows(tmp_path / "pairs.jsonl", toy_pairs()).read_bytes()
    )
    second = platform.ended(
        platform.start(pairs, method="dpo", base_model=model["slug"], max_steps=4)
    )
    assert second["status"] == "finished", second["error"]
    again = merged(platform, second)
    assert again["proof"]["passed"] is True, again["proof"]
    assert again["trained_from"]["base_model"]["id"] == model["id"]

    # What another train stands on stays.
    refused = platform.api("DELETE", f"models/{model['id']}/")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "in_use")


def test_a_killed_merge_begins_again_and_leaves_one_model(platform, trained):
    answer = platform.api(
        "POST", f"trains/{trained['id']}/merge/", json={"checkpoint": 20, "name": "killed"}
    )
    model = answer.json()["model"]

    def merging(process: psutil.Process) -> bool:
        return "engine.merging" in process.cmdline() or "engine.proof" in process.cmdline()

    def programs() -> list[psutil.Process]:
        found = psutil.Process(platform.server.pid).children(recursive=True)
        return [process for process in found if process.is_running() and merging(process)]

    platform.poll(
        f"models/{model['id']}/", lambda row: programs() or row["status"] != "importing", every=0.02
    )
    (program,) = programs()
    worker = program.parents()[1]
    worker.kill()
    ended = platform.poll(
        f"models/{model['id']}/", lambda row: row["status"] != "importing", seconds=240
    )
    assert (ended["status"], ended["proof"]["passed"]) == ("ready", True)
    found = platform.get("models/", search="killed")["results"]
    assert [row["id"] for row in found] == [model["id"]]
    assert not (platform.home / "models" / "imports" / str(model["id"])).exists()

"""What was trained becomes a model, is proved, and is trained on: supervised first, then by
preferences."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import requests

from engine.contract.rundir import file_sha256, read_spec
from tests.e2e.test_main_job import toy_rows
from tests.engine.runs import toy_pairs, write_rows
from tests.live import Platform

pytestmark = pytest.mark.long

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


@pytest.fixture(scope="module")
def first(platform: Platform, trained) -> dict:
    """The model that was made of it."""
    return merged(platform, trained)


@pytest.fixture(scope="module")
def pairs(platform: Platform, tmp_path_factory) -> dict:
    rows = write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", toy_pairs())
    return platform.upload("pairs.jsonl", rows.read_bytes())


@pytest.fixture(scope="module")
def second(platform: Platform, first, pairs) -> dict:
    """A train by preferences on that model."""
    return platform.ended(
        platform.start(pairs, method="dpo", base_model=first["slug"], max_steps=4)
    )


def test_a_trained_model_is_proved_and_trained_on(platform, trained, first, second):
    assert (first["status"], first["error"]) == ("ready", "")
    assert first["proof"]["passed"] is True, first["proof"]
    assert first["trained_from"]["train"] == trained["id"]
    page = platform.page(f"models/{first['id']}/")
    assert "Same as trained" in page
    assert "Where it is from" in page
    kept = platform.home / "models" / "trained" / str(first["id"])
    assert {path.name for path in (kept / "adapter").iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
    }
    assert json.loads((kept / "reference.json").read_text())
    passport = platform.get(f"models/{first['id']}/passport/")
    assert passport["proof"] == first["proof"]
    assert passport["measures"]["train"]["last"]["step"] == LEARNS["max_steps"]
    assert second["status"] == "finished", second["error"]

    # What another train stands on stays.
    refused = platform.api("DELETE", f"models/{first['id']}/")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "in_use")


def test_programs_pull_it_from_the_mirror(platform, first, tmp_path):
    """Through the web server itself, with the client of hubs."""
    code = (
        "from huggingface_hub import snapshot_download\n"
        f"for kind in ('', '-adapter'): print(snapshot_download('deepextension/{first['slug']}' + kind))"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env = kept | {
        "HF_ENDPOINT": f"{platform.url}/hub",
        "HF_TOKEN": platform.token("alice"),
        "HF_HOME": str(tmp_path),
    }
    ran = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    model, adapter = (Path(line) for line in ran.stdout.splitlines()[-2:])
    files = platform.get(f"models/{first['id']}/passport/")["files"]
    assert {path.name: file_sha256(path) for path in model.iterdir()} == {
        name: facts["sha256"] for name, facts in files.items()
    }
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "deepextension/tiny"

    weights = f"{platform.url}/hub/deepextension/{first['slug']}/resolve/main/model.safetensors"
    headers = {"Authorization": f"Bearer {platform.token('alice')}", "Range": "bytes=30000-"}
    answer = requests.get(weights, headers=headers, timeout=30)
    whole = (platform.home / "models" / str(first["id"]) / "model.safetensors").read_bytes()
    assert (answer.status_code, answer.content) == (206, whole[30_000:])


def test_a_killed_merge_begins_again_and_leaves_one_model(platform, first, second):
    """Of a train on a model that was trained itself."""
    answer = platform.api("POST", f"trains/{second['id']}/merge/", json={"name": "killed"})
    model = answer.json()["model"]

    def merging(process: psutil.Process) -> bool:
        try:
            words = process.cmdline()
        except psutil.NoSuchProcess:
            # It has ended meanwhile, and its parent may not have heard of it yet.
            return False

        return "engine.merging" in words or "engine.proof" in words

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
    assert (ended["status"], ended["proof"]["passed"]) == ("ready", True), ended
    assert ended["trained_from"]["base_model"]["id"] == first["id"]
    found = platform.get("models/", search="killed")["results"]
    assert [row["id"] for row in found] == [model["id"]]
    assert not (platform.home / "models" / "imports" / str(model["id"])).exists()


def test_an_adapter_is_carried_on_by_preferences_and_once_more(platform, trained, first, pairs):
    """Each begins as the model that it was given, and all their adapters belong on one base."""
    carried = platform.ended(
        platform.start(
            pairs,
            method="dpo",
            base_model=first["slug"],
            continue_adapter=True,
            max_steps=4,
            logging_steps=1,
            evaluation_split=0.2,
        )
    )
    assert carried["status"] == "finished", carried["error"]
    assert carried["parameters"]["lora_rank"] == trained["parameters"]["lora_rank"]
    (start,) = [
        row["values"]
        for row in platform.get(f"trains/{carried['id']}/metrics/")["rows"]
        if row["split"] == "train" and row["step"] == 1
    ]
    assert abs(start["rewards/margins"]) < 1e-5

    model = merged(platform, carried, name="by preferences")
    assert (model["status"], model["error"]) == ("ready", "")
    assert model["proof"]["passed"] is True, model["proof"]

    dataset = platform.kept("toys-20.jsonl", toy_rows(20))
    again = platform.ended(
        platform.start(dataset, base_model=model["slug"], continue_adapter=True, **LEARNS)
    )
    assert again["status"] == "finished", again["error"]
    last = merged(platform, again, name="once more")
    assert last["proof"]["passed"] is True, last["proof"]

    specs = [
        read_spec(platform.home / "runs" / str(run["id"])) for run in (trained, carried, again)
    ]
    assert len({spec.base_model_path for spec in specs}) == 1
    assert [spec.start_adapter is not None for spec in specs] == [False, True, True]

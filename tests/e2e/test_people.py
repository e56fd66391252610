"""An account is removed while its train runs: the engine is stopped, and then everything is gone
with its files."""

import pytest
import requests

from tests.e2e.test_main_job import toy_rows
from tests.live import PASSWORDS, Platform

pytestmark = pytest.mark.long


def test_a_running_train_is_stopped_and_everything_goes(platform: Platform, monkeypatch):
    name, password = "dora", "otters-swim-1"
    made = platform.api("POST", "users/", by="olga", json={"username": name, "password": password})
    assert made.status_code == 201, made.text
    monkeypatch.setitem(PASSWORDS, name, password)

    uploaded = platform.api(
        "POST", "datasets/", by=name, files={"file": ("rows.jsonl", toy_rows(40))}
    )
    dataset = platform.home / "datasets" / str(uploaded.json()["id"])
    platform.poll(f"datasets/{dataset.name}/", lambda row: row["status"] == "ready", by=name)
    body = {"method": "lora", "base_model": "tiny", "dataset": dataset.name}
    body["parameters"] = {"max_steps": 100_000, "max_tokens": 64, "sample_prompts": 0}
    started = platform.api("POST", "trains/", by=name, json=body)
    assert started.status_code == 201, started.text
    run = platform.home / "runs" / str(started.json()["id"])
    platform.poll(f"trains/{run.name}/", lambda row: row["step"] > 0, by=name)

    answer = platform.api("DELETE", "users/dora/?delete_data=true", by="olga")

    assert answer.status_code == 202, answer.text
    own = {"Authorization": f"Token {platform.token(name)}"}
    assert (
        requests.get(f"{platform.url}/api/v1/trains/", headers=own, timeout=30).status_code == 401
    )
    assert platform.api("GET", f"trains/{run.name}/", by="bob").status_code == 404
    platform.poll(
        "users/",
        lambda page: name not in {row["username"] for row in page["results"]},
        60,
        by="olga",
    )
    assert not run.exists()
    assert not dataset.exists()

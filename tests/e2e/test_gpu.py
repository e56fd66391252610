"""Trains on the GPU of a running platform: forked from the warm worker, stopped and gone on with,
of every kind."""

import json

import pytest
import torch

from tests.e2e.test_main_job import toy_rows
from tests.live import Platform

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(scope="module")
def dataset(platform: Platform):
    return platform.upload("gpu.jsonl", toy_rows())


def log_of(platform: Platform, run: dict) -> str:
    return (platform.home / "runs" / str(run["id"]) / "train.log").read_text()


def test_a_train_runs_on_the_gpu(platform, dataset):
    run = platform.ended(
        platform.start(dataset, epochs=3, batch_size=4, learning_rate=1e-2, evaluation_split=0.1)
    )
    assert (run["status"], run["error"]) == ("finished", None), log_of(platform, run)
    assert torch.cuda.get_device_name() in log_of(platform, run)
    assert "bf16" in log_of(platform, run)
    assert torch.cuda.get_device_name() in platform.page(f"trains/{run['id']}/")


def test_the_form_offers_what_a_gpu_can_do(platform):
    assert 'name="quantization"' in platform.page("trains/new/lora/")


def test_it_is_stopped_and_goes_on(platform, dataset):
    run = platform.start(dataset, max_steps=400, batch_size=4, evaluation_split=0.1)
    platform.training(run, step=5)
    platform.api("POST", f"trains/{run['id']}/stop/")
    stopped = platform.ended(run)
    assert (stopped["status"], 5 <= stopped["step"] < 400) == ("stopped", True), log_of(
        platform, run
    )
    assert platform.api("POST", f"trains/{run['id']}/resume/").status_code in (200, 201, 202)
    done = platform.poll(
        f"trains/{run['id']}/", lambda row: row["status"] in ("finished", "failed")
    )
    assert (done["status"], done["step"]) == ("finished", 400), log_of(platform, run)
    rows = []
    while (
        answer := platform.get(f"trains/{run['id']}/metrics/", after=rows[-1]["seq"] if rows else 0)
    )["rows"]:
        rows += answer["rows"]
    steps = [row["step"] for row in rows if row["split"] == "train"]
    assert steps == sorted(set(steps))
    assert steps[-1] == 400


@pytest.mark.parametrize("method", ["dpo", "grpo", "ppo"])
def test_other_methods(platform, dataset, method):
    if method == "dpo":
        pairs = [
            {"prompt": f"Ball {n}?", "chosen": "It is red.", "rejected": f"No idea, {n}!"}
            for n in range(24)
        ]
        dataset = platform.upload(
            "pairs.jsonl", "".join(json.dumps(row) + "\n" for row in pairs).encode()
        )
        given = {"batch_size": 4}
    else:
        given = {
            "max_prompt_tokens": 64,
            "max_completion_tokens": 8,
            "batch_size": 8,
            "rewards": [{"function": "contains", "parameters": {"texts": "a"}}],
        }
        given |= {"num_generations": 4} if method == "grpo" else {}
    body = {"name": method, "method": method, "base_model": "tiny", "dataset": dataset["id"]}
    body["parameters"] = {"max_steps": 3, "sample_prompts": 0, "evaluation_split": 0} | given
    answer = platform.api("POST", "trains/", json=body)
    assert answer.status_code == 201, answer.text
    run = platform.ended(answer.json())
    assert (run["status"], run["error"]) == ("finished", None), log_of(platform, run)

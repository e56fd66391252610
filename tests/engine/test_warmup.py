"""The learning rate over short trains: whatever the schedule, something is learned."""

from typing import get_args

import pytest
from safetensors.torch import load_file

from engine.contract.arithmetic import warmup_is_long, warmup_steps
from engine.schema.train import SCHEDULERS
from tests.engine.runs import train


@pytest.mark.parametrize("scheduler", get_args(SCHEDULERS))
def test_a_train_of_one_step_learns_whatever_its_schedule(tiny, tmp_path, scheduler):
    run = train(tmp_path / "run", tiny, max_steps=1, scheduler=scheduler, warmup_ratio=0.03)
    assert run.code == 0, run.last
    assert run.of("metrics")[-1]["values"]["learning_rate"] == pytest.approx(0.01)
    weights = load_file(run.directory / "model" / "adapter_model.safetensors")
    assert all(weight.abs().max() > 0 for name, weight in weights.items() if "lora_B" in name)
    assert run.of("warning") == []


@pytest.mark.parametrize("given", [{"warmup_ratio": 0.5}, {"more": {"warmup_steps": 100}}])
def test_a_warmup_that_takes_most_of_a_train_is_warned_about(tiny, tmp_path, given):
    run = train(tmp_path / "run", tiny, max_steps=2, scheduler="linear", **given)
    assert run.code == 0, run.last
    (warning,) = run.of("warning")
    assert warning["code"] == "long_warmup"
    assert "1 of 2 steps" in warning["message"]
    rates = [event["values"]["learning_rate"] for event in run.of("metrics")]
    assert rates == [0, pytest.approx(0.01)]


@pytest.mark.parametrize(
    ("total", "ratio", "steps", "is_long"),
    [
        (1, 0.03, 0, False),
        (1, 0.5, 0, False),
        (2, 0.03, 1, True),
        (3, 0.03, 1, False),
        (10, 0.5, 5, True),
        (100, 0.03, 3, False),
        (1000, 0.0, 0, False),
    ],
)
def test_warmup_is_never_the_whole_train(total, ratio, steps, is_long):
    assert warmup_steps(total, ratio, "cosine") == steps
    assert warmup_steps(total, ratio, "constant") == 0
    assert warmup_is_long(total, steps) is is_long

"""Rules over made-up curves, and trains that end before their last step for a reason."""

import itertools
import math
import random
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from engine.contract.rundir import checkpoint_is_whole
from engine.messages.health import Health, Thresholds, thresholds_read
from engine.schema.registry import LOSS, RECIPES
from tests.engine.runs import train

WINDOW = Thresholds().window


def warning_codes(
    lines: list[dict], *, from_rewards: bool = False, total_steps: int = 100
) -> list[str]:
    """Codes of what a health that sees these lines says, in order."""
    health = Health(LOSS, total_steps=total_steps, from_rewards=from_rewards)
    return [
        trouble.code
        for step, values in enumerate(lines, 1)
        for trouble in health.train(step, values)
    ]


def falling(count: int = 60) -> list[dict]:
    return [
        {"loss": 3.0 * 0.97**step + 0.1 * math.sin(step), "grad_norm": 1.0 + step % 3}
        for step in range(count)
    ]


def test_a_train_that_goes_well_hears_nothing():
    assert warning_codes(falling()) == []


def test_a_spike_and_an_exploding_gradient_are_told_once():
    lines = falling()
    lines[40] = {"loss": 30.0, "grad_norm": 400.0}
    lines[45] = {"loss": 30.0, "grad_norm": 400.0}
    assert warning_codes(lines) == ["gradient_explosion", "loss_spike"]


def test_a_loss_that_does_not_move():
    flat = [{"loss": 2.0, "grad_norm": 1.0}] * 60
    assert warning_codes(flat) == ["no_change"]
    # Too early to say.
    assert warning_codes(flat[: 2 * WINDOW - 1]) == []


def test_no_line_without_numbers_breaks_a_rule():
    assert warning_codes([{}, {"loss": math.nan, "grad_norm": math.inf}] * 40) == []
    assert warning_codes([{}, {"kl": math.nan, "entropy": math.nan}] * 40, from_rewards=True) == []


def test_groups_without_spread_a_runaway_and_a_collapse():
    lines = [
        {"loss": 0.0, "frac_reward_zero_std": 1.0, "kl": 0.01 * step, "entropy": 2.0 * 0.9**step}
        for step in range(110)
    ]
    assert sorted(warning_codes(lines, from_rewards=True)) == [
        "entropy_collapse",
        "kl_runaway",
        "zero_spread",
    ]
    healthy = [
        {"loss": 0.0, "frac_reward_zero_std": 0.3, "kl": 0.02, "entropy": 1.5} for _ in range(110)
    ]
    assert warning_codes(healthy, from_rewards=True) == []


def test_an_operator_sets_other_thresholds():
    limits = thresholds_read({"spike": 1.5, "window": 5})
    assert (limits.spike, limits.window, limits.kl) == (1.5, 5, Thresholds().kl)
    health = Health(LOSS, total_steps=100, from_rewards=False, thresholds=limits)
    lines = [{"loss": 2.0, "grad_norm": 1.0}] * 5 + [{"loss": 3.1, "grad_norm": 1.0}]
    assert [
        found.code for step, line in enumerate(lines) for found in health.train(step, line)
    ] == ["loss_spike"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"spikes": 2}, "spikes is none of"),
        ({"spike": 0}, "spike cannot"),
        ({"kl": math.nan}, "kl cannot"),
        ({"window": 1}, "window cannot"),
    ],
)
def test_a_threshold_that_is_none_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        thresholds_read(values)


def test_a_train_is_watched_with_the_thresholds_of_its_spec(tiny, tmp_path):
    run = train(
        tmp_path / "run",
        tiny,
        max_steps=8,
        health={"window": 4, "gradient": 0.01, "gradient_floor": 0.01},
    )
    assert "gradient_explosion" in [event["code"] for event in run.of("warning")]


def test_three_evaluations_well_over_the_best_are_overfit():
    health = Health(LOSS, total_steps=100, from_rewards=False)

    def evaluate(*losses: float) -> list[str]:
        return [
            trouble.code for loss in losses for trouble in health.evaluation({"eval_loss": loss})
        ]

    assert evaluate(2.0, 1.5, 1.52, 1.55, 1.56) == []
    assert evaluate(1.6, 1.7, 1.4) == []
    assert evaluate(1.6, 1.7) == []
    assert evaluate(1.8) == ["overfit"]
    assert evaluate(1.9) == []


def test_where_more_is_better_no_evaluation_is_overfit():
    health = Health(RECIPES["grpo"].objective, total_steps=10, from_rewards=True)
    assert [
        found
        for value in (1.0, 2.0, 3.0, 4.0, 5.0)
        for found in health.evaluation({"eval_reward": value})
    ] == []


# Early ends of real trains: answers without a rule can only be learned by heart.

OVERFITS = {
    "format": "prompt-completion",
    "adapter": "none",
    "max_steps": 60,
    "evaluation_split": 0.25,
    "evaluation_every": 0.05,
    "save_strategy": "steps",
    "save_every": 3,
    "save_total_limit": 2,
}


def noise() -> list[dict]:
    draw = random.Random(0)
    return [
        {"prompt": f"Ball {number}?", "completion": "".join(draw.choices("abcdefghijklmnop", k=12))}
        for number in range(16)
    ]


@pytest.fixture(scope="module")
def overfit(tiny, tmp_path_factory):
    return train(
        tmp_path_factory.mktemp("overfit") / "run", tiny, noise(), on_trouble="end", **OVERFITS
    )


def test_a_train_that_overfits_is_ended_where_that_was_asked_for(overfit):
    assert (overfit.code, overfit.last["code"]) == (1, "overfit")
    assert "by heart" in overfit.last["message"]
    assert [event["code"] for event in overfit.of("warning")].count("overfit") == 1
    last = max(overfit.losses())
    assert last < 60
    assert checkpoint_is_whole(overfit.directory / "checkpoints" / f"checkpoint-{last}")
    assert (overfit.directory / "model" / "model.safetensors").is_file()


def test_it_is_only_warned_of_by_default(tiny, tmp_path):
    run = train(tmp_path / "run", tiny, noise(), **OVERFITS)
    assert (run.code, run.last["type"]) == (0, "finished")
    assert "overfit" in [event["code"] for event in run.of("warning")]


def test_it_stops_early_and_keeps_the_best(tiny, tmp_path):
    run = train(tmp_path / "run", tiny, noise(), early_stop_after=3, keep_best=True, **OVERFITS)
    assert (run.code, run.last["type"]) == (0, "finished")
    losses = run.losses("eval")
    assert max(run.losses()) < 60
    kept = {
        int(path.name.removeprefix("checkpoint-"))
        for path in (run.directory / "checkpoints").iterdir()
    }
    best = min((step for step in kept if step in losses), key=losses.__getitem__)
    assert best != max(kept)
    assert (run.last["step"], run.last["model_step"]) == (max(run.losses()), best)
    model = load_file(run.directory / "model" / "model.safetensors")
    checkpoint = load_file(
        run.directory / "checkpoints" / f"checkpoint-{best}" / "model.safetensors"
    )
    assert all(model[name].equal(checkpoint[name]) for name in model)


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="another device draws other adapters, which are not ruined"
)
def test_the_best_adapter_is_kept_too(tiny, tmp_path):
    """A rate that ruins the adapter at the end."""
    given = OVERFITS | {"adapter": "lora", "learning_rate": 1.0, "max_steps": 15, "lora_rank": 16}
    run = train(tmp_path / "run", tiny, noise(), keep_best=True, **given)
    losses = run.losses("eval")
    best = min(range(3, 16, 3), key=losses.__getitem__)
    assert run.last["model_step"] == best < run.last["step"] == 15
    made = load_file(run.directory / "model" / "adapter_model.safetensors")
    checkpoint = load_file(
        run.directory / "checkpoints" / f"checkpoint-{best}" / "adapter_model.safetensors"
    )
    assert all(made[name].equal(checkpoint[name]) for name in checkpoint)


def test_a_time_limit_saves_and_says_so(tiny, tmp_path, monkeypatch):
    """A clock that makes every look a quarter of a minute later."""
    looks = itertools.count()
    monkeypatch.setattr(
        "engine.run.job.time", SimpleNamespace(monotonic=lambda: 15.0 * next(looks))
    )
    run = train(tmp_path / "run", tiny, max_steps=2000, time_limit_minutes=5)
    assert (run.code, run.last["code"]) == (1, "time_limit")
    reached = max(run.losses())
    assert 0 < reached < 2000
    assert f"after step {reached:,} of 2,000" in run.last["message"]
    assert checkpoint_is_whole(run.directory / "checkpoints" / f"checkpoint-{reached}")
    assert (run.directory / "model" / "adapter_model.safetensors").is_file()

"""python -m tests.shapes: trains whose records have every shape that a chart may meet, in the home
that the environment names. Prints {name: id} as JSON.

A process of its own, since it writes into that home's database and not into the test runner's.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Callable
from datetime import timedelta

import django

django.setup()

from django.contrib.auth import get_user_model
from django.utils import timezone

from datasets_app.models import Dataset
from methods.models import TrainingMethod
from methods.services import method_defaults
from models_app.models import BaseModel
from training.models import MetricRow, Sample, TrainRun
from training.train.curve_summary import curve_summaries_extend

STEPS = 200
Values = dict[str, float | None]

# {name: {step: {metric: value}}} of train rows; a name with an eval_ metric is of an evaluation.
SHAPES: dict[str, dict[int, Values]] = {
    "nothing": {},
    "one point": {
        7: {"loss": 2.5, "learning_rate": 2e-4, "grad_norm": 1.2, "tokens_per_second": 900.0}
    },
    "step 0 only": {0: {"eval_loss": 2.5, "eval_mean_token_accuracy": 0.4}},
    "one evaluation only": {
        40: {"eval_loss": 2.5, "eval_mean_token_accuracy": 0.41, "eval_perplexity": 12.2}
    },
    "constant": {
        step: {"loss": 1.5, "mean_token_accuracy": 1.0, "entropy": 0.3} for step in range(1, 31)
    },
    "all zero": {
        step: {"loss": 0.0, "learning_rate": 0.0, "clip_ratio/region_mean": 0.0}
        for step in range(1, 31)
    },
    "negative zero": {
        step: {"rewards/margins": value, "policy_loss": value, "loss": 1.0}
        for step, value in enumerate((-0.0, -0.0001, 0.0001, -0.0002, 0.0002, -0.00004), 1)
    },
    "not numbers": {
        step: {
            "loss": None if 10 <= step <= 14 or step == 20 else 2.0 - step / 40,
            "grad_norm": 1.0,
        }
        for step in range(1, 31)
    },
    "lone point between gaps": {
        step: {"loss": 2.0 - step / 40 if step in (1, 2, 3, 8) else None, "grad_norm": 1.0}
        for step in range(1, 12)
    },
    "shares": {
        step: {
            "loss": 2.0 - step / 40,
            "mean_token_accuracy": min(1.0, 0.9 + step / 200),
            "completions/clipped_ratio": 0.002 * (step % 3),
        }
        for step in range(1, 31)
    },
    "a billion": {
        step: {"loss": 1e9 + step, "logps/chosen": -1e9 * step, "other/count": 1e9}
        for step in range(1, 31)
    },
    "tiny": {
        step: {"loss": 1e-9 * step, "grad_norm": 1e-7, "kl": 1e-6 * step} for step in range(1, 31)
    },
    "missing steps": {
        step: {"loss": 2.0 - step / 40, "grad_norm": 1.0}
        for step in range(1, 31)
        if not 11 <= step <= 20
    },
}


def decay(step: int, first: float, last: float, noise: float) -> float:
    return last + (first - last) * math.exp(-step / 40) + noise * random.gauss(0, 1)


def sft(step: int) -> Values:
    return {
        "loss": decay(step, 2.6, 1.2, 0.05),
        "grad_norm": abs(decay(step, 1.6, 0.6, 0.06)),
        "learning_rate": 2e-4 * min(step / 10, 1 - step / STEPS) if step < STEPS else 0.0,
        "tokens_per_second": 1600 + random.gauss(0, 30),
        "samples_per_second": 8 + random.gauss(0, 0.2),
        "mean_token_accuracy": 0.7 - 0.3 * math.exp(-step / 40),
        "entropy": decay(step, 1.8, 1.1, 0.02),
        "num_tokens": 1200 * step,
        "peak_memory_gb": 14.2,
    }


def preference(step: int) -> Values:
    margin = 1.4 * (1 - math.exp(-step / 60)) + random.gauss(0, 0.05)
    return {
        "loss": decay(step, 0.693, 0.35, 0.02),
        "grad_norm": abs(decay(step, 6, 3, 0.3)),
        "learning_rate": 5e-6 * (1 - step / STEPS),
        "tokens_per_second": 800 + random.gauss(0, 20),
        "rewards/chosen": margin / 3,
        "rewards/rejected": -2 * margin / 3,
        "rewards/margins": margin,
        "rewards/accuracies": min(1.0, 0.5 + margin / 3),
        "logps/chosen": -120 + 3 * margin,
        "logps/rejected": -150 - 20 * margin,
        "peak_memory_gb": 17.9,
    }


def rewarded(step: int) -> Values:
    format_score = 0.96 - 0.76 * math.exp(-step / 25) + random.gauss(0, 0.01)
    correct = 0.64 - 0.42 * math.exp(-step / 80) + random.gauss(0, 0.02)
    brevity = 0.62 - 0.26 * math.exp(-step / 60) + random.gauss(0, 0.01)
    return {
        "loss": random.gauss(0, 0.01),
        "grad_norm": abs(random.gauss(0.4, 0.05)),
        "learning_rate": 1e-5 * (1 - step / STEPS),
        "tokens_per_second": 420 + random.gauss(0, 10),
        "reward": correct + 0.2 * format_score + 0.1 * brevity,
        "reward_std": 0.3 + random.gauss(0, 0.01),
        "frac_reward_zero_std": 0.38 - 0.28 * math.exp(-step / 90),
        "rewards/numeric_answer/mean": correct,
        "rewards/numeric_answer/std": 0.45,
        "rewards/tag_format/mean": format_score,
        "rewards/tag_format/std": 0.2,
        "rewards/length_window/mean": brevity,
        "rewards/length_window/std": 0.3,
        "kl": 0.041 * (1 - math.exp(-step / 70)),
        "entropy": decay(step, 0.9, 0.5, 0.01),
        "clip_ratio/region_mean": 0.004,
        "completions/mean_length": decay(step, 210, 168, 4),
        "completions/clipped_ratio": max(0.0, decay(step, 0.32, 0.14, 0.01)),
        "peak_memory_gb": 20.6,
    }


def policy(step: int) -> Values:
    own = ("policy_loss", "value_loss", "explained_variance", "return")
    values = rewarded(step)
    del values["frac_reward_zero_std"]
    return values | dict(
        zip(own, (random.gauss(0, 0.01), decay(step, 0.3, 0.05, 0.01), 0.5, 0.6), strict=True)
    )


EVALUATED: dict[str, Callable[[int], Values]] = {
    "sft": lambda step: {
        "eval_loss": decay(step, 2.7, 1.3, 0.0),
        "eval_perplexity": math.exp(decay(step, 2.7, 1.3, 0.0)),
        "eval_mean_token_accuracy": 0.68 - 0.3 * math.exp(-step / 40),
    },
    "dpo": lambda step: {
        "eval_loss": decay(step, 0.693, 0.4, 0.0),
        "eval_rewards/margins": 1.2 * (1 - math.exp(-step / 60)),
        "eval_rewards/accuracies": 0.5 + 0.35 * (1 - math.exp(-step / 60)),
    },
    "grpo": lambda step: {"eval_reward": 0.8 - 0.5 * math.exp(-step / 80)},
    "ppo": lambda step: {"eval_reward": 0.8 - 0.5 * math.exp(-step / 80)},
}
TRAINED: dict[str, Callable[[int], Values]] = {
    "sft": sft,
    "dpo": preference,
    "grpo": rewarded,
    "ppo": policy,
}
METHODS = {"sft": "lora", "dpo": "dpo", "grpo": "grpo", "ppo": "ppo"}
REWARDS = [
    {"function": "numeric_answer", "weight": 1.0, "parameters": {}},
    {"function": "tag_format", "weight": 0.2, "parameters": {}},
    {"function": "length_window", "weight": 0.1, "parameters": {}},
]


def make(name: str, method: TrainingMethod, **fields: object) -> TrainRun:
    owner = get_user_model().objects.get(username="alice")
    data, _ = Dataset.objects.get_or_create(
        slug="shapes",
        defaults={
            "owner": owner,
            "name": "Shapes",
            "file_name": "shapes.jsonl",
            "file_type": "jsonl",
            "size_bytes": 1,
            "sha256": "0" * 64,
            "status": "ready",
            "format": "messages",
            "row_count": 10,
        },
    )
    now = timezone.now()
    values = {
        "status": "finished",
        "parameters": method_defaults(method),
        "started_at": now,
        "finished_at": now,
    }
    model = BaseModel.objects.earliest("pk")
    return TrainRun.objects.create(
        owner=owner, name=name, method=method, base_model=model, dataset=data, **values | fields
    )


def is_evaluation(values: Values) -> bool:
    return any(name.startswith("eval_") for name in values)


def log(run: TrainRun, rows: list[tuple[int, Values]]) -> None:
    """Store the rows as an ingested record would be, with what the train says of its latest
    step."""
    per_epoch = run.facts.get("steps_per_epoch") or 10
    MetricRow.objects.bulk_create(
        MetricRow(
            run=run,
            seq=seq,
            step=step,
            epoch=step / per_epoch,
            time=1.7e9 + 3 * seq,
            values=values,
            split="eval" if is_evaluation(values) else "train",
        )
        for seq, (step, values) in enumerate(rows, 1)
    )
    curve_summaries_extend(run, len(rows))

    trained = [(step, values) for step, values in rows if not is_evaluation(values)]
    measured = [(step, values) for step, values in rows if is_evaluation(values)]
    objective = run.objective
    run.last_seq = len(rows)
    if trained:
        run.step, run.last_metrics = trained[-1]
        points = [[step, values.get(objective.train)] for step, values in trained]
        run.curve = [point for point in points if point[1] is not None][
            :: max(1, len(points) // 60)
        ]
    if measured:
        run.last_evaluation = measured[-1][1]
        best = max if objective.higher_is_better else min
        found = [
            (values[objective.evaluation], step)
            for step, values in measured
            if objective.evaluation in values
        ]
        run.best_value, run.best_step = best(found)
    run.save()


def rows_until(recipe: str, last: int) -> list[tuple[int, Values]]:
    """The record of a train of that kind up to step `last`, measured every 20 steps."""
    rows: list[tuple[int, Values]] = [(0, EVALUATED[recipe](0))]
    for step in range(1, last + 1):
        rows.append((step, TRAINED[recipe](step)))
        if step % 20 == 0:
            rows.append((step, EVALUATED[recipe](step)))
    return rows


def example(recipe: str, *, is_running: bool = False) -> TrainRun:
    """A train as people have them. One that runs says that a worker elsewhere looks after it."""
    method = TrainingMethod.objects.get(slug=METHODS[recipe])
    parameters = method_defaults(method)
    if recipe in ("grpo", "ppo"):
        parameters |= {"rewards": REWARDS, "max_completion_tokens": 256}
    fields: dict[str, object] = {}
    if is_running:
        now = timezone.now()
        fields = {
            "status": "running",
            "finished_at": None,
            "phase": "training",
            "last_step_at": now,
        }
        fields |= {"host": "elsewhere", "heartbeat_at": now + timedelta(days=1)}

    facts = {
        "steps_per_epoch": 80,
        "eval_rows": 200,
        "device": {"name": "CPU", "kind": "cpu", "memory_gb": 24.0},
    }
    name = f"{recipe} running" if is_running else recipe
    run = make(name, method, parameters=parameters, total_steps=STEPS, facts=facts, **fields)
    log(run, rows_until(recipe, 130 if is_running else STEPS))
    if recipe == "grpo":
        completions(run)
    return run


def completions(run: TrainRun) -> None:
    texts = (
        "14 × 3.5 = 49, so 37 is left. <answer>37</answer>",
        "37 dollars are left.",
        "<answer>75.40</answer>",
        "No idea.",
    )
    for index, text in enumerate(texts):
        scores = {
            "numeric_answer": float(index < 2),
            "tag_format": float("answer>" in text),
            "length_window": 0.6 + index / 10,
        }
        Sample.objects.create(
            run=run,
            seq=10_000 + index,
            index=index,
            step=100,
            stage="completion",
            tokens=12 + index,
            prompt="A baker sells 14 loaves at $3.50 each. How much is left?",
            reference="37",
            text=text,
            rewards=scores,
            advantage=0.7 - index / 2,
        )


def main() -> None:
    random.seed(1)
    ids: dict[str, int] = {}
    lora = TrainingMethod.objects.get(slug="lora")
    for name, rows in SHAPES.items():
        gaps = [{"after": 10, "before": 21, "events": 10}] if name == "missing steps" else []
        facts = {"steps_per_epoch": 10, "eval_rows": 50}
        run = make(name, lora, total_steps=40, facts=facts, record_gaps=gaps)
        log(run, list(rows.items()))
        ids[name] = run.pk

    for recipe in TRAINED:
        ids[recipe] = example(recipe).pk
    for recipe in ("sft", "grpo"):
        ids[f"{recipe} running"] = example(recipe, is_running=True).pk
    json.dump(ids, sys.stdout)


if __name__ == "__main__":
    main()

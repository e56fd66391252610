"""Answers of the model to held-out prompts: before beside after, and the same prompt across several
trains."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from core.requests import integer_of
from engine.rewards.panel import Panel
from engine.rewards.parameters import RewardChoice
from engine.rewards.registry import REWARDS
from training.models import Sample, TrainRun

WORD = re.compile(r"\w+")
# SequenceMatcher takes quadratic time, and the beginning tells enough for an order.
COMPARED_WORDS = 400


@dataclass(frozen=True)
class Answer:
    """One prompt: what the model said before and at the latest sampling.

    Overlaps are shares of 1, None where there is no reference; `change` is 0 for the same answer
    and 1 for another."""

    index: int
    prompt: str
    reference: str
    before: Sample | None
    after: Sample | None
    overlap_before: float | None
    overlap_after: float | None
    change: float

    @property
    def gain(self) -> float | None:
        if self.overlap_before is None or self.overlap_after is None:
            return None

        return self.overlap_after - self.overlap_before


def overlap(text: str, reference: str) -> float | None:
    """F1 over words, as SQuAD scores answers (arxiv.org/abs/1606.05250): 1 for the same words, 0
    for none shared."""
    said, wanted = WORD.findall(text.lower()), WORD.findall(reference.lower())
    if not wanted:
        return None

    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))


def difference(one: str, other: str) -> float:
    """0 for the same words in the same order, 1 for none in common."""
    first, second = (WORD.findall(text.lower())[:COMPARED_WORDS] for text in (one, other))
    return 1.0 - SequenceMatcher(None, first, second, autojunk=False).ratio()


def answers_of(run: TrainRun) -> list[Answer]:
    """Every sampled prompt, the one whose answer changed most first."""
    found: dict[int, list[Sample]] = {}
    for sample in run.samples.exclude(stage="completion").order_by("index", "seq"):
        found.setdefault(sample.index, []).append(sample)

    return sorted(
        (_answer(index, samples) for index, samples in found.items()),
        key=lambda answer: -answer.change,
    )


def _answer(index: int, samples: list[Sample]) -> Answer:
    before = next((sample for sample in samples if sample.stage == "before"), None)
    after = next((sample for sample in reversed(samples) if sample.stage != "before"), None)
    shown = after or samples[0]

    return Answer(
        index,
        shown.prompt,
        shown.reference,
        before,
        after,
        overlap_before=overlap(before.text, shown.reference) if before else None,
        overlap_after=overlap(after.text, shown.reference) if after else None,
        change=difference(before.text, after.text) if before and after else 0.0,
    )


def completions_of(run: TrainRun, step: str) -> dict[str, Any]:
    """{"step", "steps", "functions", "has_advantages", "rows"}: answers of one step with their
    rewards, the best first.

    `step`: as typed in an address; the latest step where answers of that one were not kept.
    `functions`: (name, title)."""
    kept = run.samples.filter(stage="completion")
    steps = list(kept.order_by("step").values_list("step", flat=True).distinct())
    if not steps:
        return {"step": None, "steps": [], "functions": [], "has_advantages": False, "rows": []}

    wanted = integer_of(step)
    chosen = wanted if wanted in steps else steps[-1]
    samples = list(kept.filter(step=chosen).order_by("seq"))
    weights, titles = _weights(run), function_titles(run)

    # In the order of the form; a database may keep a row's own in another.
    names = {name for sample in samples for name in sample.rewards}
    functions = [name for name in weights if name in names] + sorted(names - set(weights))
    rows = [_completion(sample, functions, weights) for sample in samples]

    return {
        "step": chosen,
        "steps": steps,
        "functions": [titles.get(name, reward_title(name)) for name in functions],
        "has_advantages": any(sample.advantage is not None for sample in samples),
        "rows": sorted(rows, key=lambda row: (row["total"] is None, -(row["total"] or 0.0))),
    }


def _completion(sample: Sample, functions: list[str], weights: dict[str, float]) -> dict[str, Any]:
    """An answer with its scores; one that a function could not score has no sum, as in the
    train."""
    values = [sample.rewards.get(name) for name in functions]
    total = None

    if all(value is not None for value in values):
        total = sum(weights.get(name, 1.0) * sample.rewards[name] for name in functions)

    return {"sample": sample, "total": total, "values": values}


def function_titles(run: TrainRun) -> dict[str, str]:
    """{name of a reward function in the metrics: its title with its weight} in the order of the
    form."""
    return {name: f"{reward_title(name)} × {weight:g}" for name, weight in _weights(run).items()}


def reward_title(name: str) -> str:
    """The title of a reward function by its name in the metrics, where the second of a kind is
    numbered."""
    plain, _, number = name.rpartition("_")
    if plain in REWARDS and number.isdigit():
        return f"{REWARDS[plain].title} {number}"

    return REWARDS[name].title if name in REWARDS else name.replace("_", " ").capitalize()


def _weights(run: TrainRun) -> dict[str, float]:
    """{name as the engine numbers it: weight} of the chosen rewards."""
    choices = [
        RewardChoice.model_construct(**choice) for choice in run.parameters.get("rewards") or []
    ]
    return dict(zip(Panel(choices, []).names, (choice.weight for choice in choices), strict=True))


@dataclass(frozen=True)
class SharedPrompt:
    """A prompt that several trains were asked; `answers` in the order of the trains, None where one
    was not."""

    prompt: str
    reference: str
    answers: list[Sample | None]


def shared_prompts(trains: list[TrainRun]) -> list[SharedPrompt]:
    """Prompts that at least two of the trains answered, those that all answered first."""
    latest: dict[tuple[str, str], dict[int, Sample]] = {}
    wanted = (
        Sample.objects.filter(run__in=trains)
        .exclude(stage__in=("before", "completion"))
        .order_by("seq")
    )

    for sample in wanted:
        latest.setdefault((sample.prompt, sample.reference), {})[sample.run_id] = sample

    shared = [
        SharedPrompt(prompt, reference, [answers.get(run.pk) for run in trains])
        for (prompt, reference), answers in latest.items()
        if len(answers) > 1
    ]
    return sorted(shared, key=lambda item: item.answers.count(None))

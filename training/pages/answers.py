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
    words = WORD.findall(text.lower())
    reference_words = WORD.findall(reference.lower())
    if not reference_words:
        return None

    shared = Counter(words) & Counter(reference_words)
    return 2 * shared.total() / (len(words) + len(reference_words))


def difference(one: str, other: str) -> float:
    """0 for the same words in the same order, 1 for none in common."""
    first = WORD.findall(one.lower())[:COMPARED_WORDS]
    second = WORD.findall(other.lower())[:COMPARED_WORDS]
    matcher = SequenceMatcher(None, first, second, autojunk=False)

    return 1.0 - matcher.ratio()


def answers_of(run: TrainRun) -> list[Answer]:
    """Every sampled prompt, the one whose answer changed most first."""
    by_prompt: dict[int, list[Sample]] = {}
    for sample in run.samples.exclude(stage="completion").order_by("index", "seq"):
        by_prompt.setdefault(sample.index, []).append(sample)

    answers = [_answer(index, samples) for index, samples in by_prompt.items()]
    return sorted(answers, key=lambda answer: -answer.change)


def _answer(index: int, samples: list[Sample]) -> Answer:
    """`samples`: all of one prompt, oldest first."""
    before: Sample | None = None
    after: Sample | None = None

    for sample in samples:
        if sample.stage != "before":
            after = sample
        elif before is None:
            before = sample

    shown = after or samples[0]
    change = 0.0
    if before is not None and after is not None:
        change = difference(before.text, after.text)

    return Answer(
        index=index,
        prompt=shown.prompt,
        reference=shown.reference,
        before=before,
        after=after,
        overlap_before=_overlap_of(before, shown.reference),
        overlap_after=_overlap_of(after, shown.reference),
        change=change,
    )


def _overlap_of(sample: Sample | None, reference: str) -> float | None:
    return overlap(sample.text, reference) if sample is not None else None


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
    weights = _weights(run)
    functions = _functions_scored(samples, weights)
    titles = function_titles(run)

    rows = [_completion(sample, functions, weights) for sample in samples]
    rows.sort(key=_best_first)

    return {
        "step": chosen,
        "steps": steps,
        "functions": [titles.get(name, reward_title(name)) for name in functions],
        "has_advantages": any(sample.advantage is not None for sample in samples),
        "rows": rows,
    }


def _functions_scored(samples: list[Sample], weights: dict[str, float]) -> list[str]:
    """Names of the functions that scored these, in the order of the form: a database may keep those
    of a row in another."""
    scored: set[str] = set()
    for sample in samples:
        scored.update(sample.rewards)

    known = [name for name in weights if name in scored]
    return known + sorted(scored.difference(weights))


def _best_first(row: dict[str, Any]) -> tuple[bool, float]:
    """Sort key; rows without a total come last."""
    total = row["total"]
    return total is None, -(total or 0.0)


def _completion(sample: Sample, functions: list[str], weights: dict[str, float]) -> dict[str, Any]:
    """An answer with its scores; one that a function could not score has no sum, as in the
    train."""
    values = [sample.rewards.get(name) for name in functions]
    total: float | None = 0.0

    for name, value in zip(functions, values, strict=True):
        if value is None:
            total = None
            break

        total += weights.get(name, 1.0) * value

    return {"sample": sample, "total": total, "values": values}


def function_titles(run: TrainRun) -> dict[str, str]:
    """{name of a reward function in the metrics: its title with its weight} in the order of the
    form."""
    titles = {}
    for name, weight in _weights(run).items():
        titles[name] = f"{reward_title(name)} × {weight:g}"

    return titles


def reward_title(name: str) -> str:
    """The title of a reward function by its name in the metrics, where the second of a kind is
    numbered."""
    function, _, number = name.rpartition("_")
    if function in REWARDS and number.isdigit():
        return f"{REWARDS[function].title} {number}"
    if name in REWARDS:
        return REWARDS[name].title

    return name.replace("_", " ").capitalize()


def _weights(run: TrainRun) -> dict[str, float]:
    """{name as the engine numbers it: weight} of the chosen rewards."""
    chosen = run.parameters.get("rewards") or []
    choices = [RewardChoice.model_construct(**choice) for choice in chosen]
    names = Panel(choices, []).names
    weights = [choice.weight for choice in choices]

    return dict(zip(names, weights, strict=True))


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
    samples = Sample.objects.filter(run__in=trains).exclude(stage__in=("before", "completion"))

    for sample in samples.order_by("seq"):
        of_prompt = latest.setdefault((sample.prompt, sample.reference), {})
        of_prompt[sample.run_id] = sample

    shared = []

    for (prompt, reference), by_train in latest.items():
        if len(by_train) > 1:
            answers = [by_train.get(run.pk) for run in trains]
            shared.append(SharedPrompt(prompt, reference, answers))

    return sorted(shared, key=lambda item: item.answers.count(None))

"""How long a running train still needs: its steps at the pace so far, and the evaluations,
checkpoints and sample answers that are still to come, each as long as such a round took before.

A round that this train has not had yet is timed by similar trains. Where there are none it is left
out, and named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.text import counted
from engine.contract.arithmetic import checkpoints_left, evaluations_left
from training.models import TrainRun
from training.train.phases import open_phase, spent_of

ANSWERING, EVALUATING, SAVING, TRAINING = "answering", "evaluating", "saving", "training"
ROUNDS = {EVALUATING: "evaluation", SAVING: "saving", ANSWERING: "sample answers"}


@dataclass(frozen=True)
class TimeLeft:
    """`basis`: what the seconds include and where that was measured, in a sentence or two."""

    seconds: float
    basis: str


def time_left(run: TrainRun, now: float) -> TimeLeft | None:
    """`now` in Unix seconds. None before the first step, and where the number of steps is not
    known."""
    pace = seconds_per_step(run, now)
    if pace is None or not run.total_steps:
        return None

    current = open_phase(run.facts)
    in_round = now - current[1] if current is not None and current[0] in ROUNDS else 0.0
    rounds = rounds_left(run, current[0] if current is not None else "")
    own, similar = _own_means(run), run.facts.get("rounds_of_similar") or {}

    at_end = rounds.pop("at end")
    seconds = 0.0 if at_end else pace * (run.total_steps - run.step)
    timed_here, timed_elsewhere, not_timed = [], [], []

    for phase, count in rounds.items():
        if not count:
            continue

        if phase in own:
            timed_here.append(ROUNDS[phase])
        elif phase in similar:
            timed_elsewhere.append(ROUNDS[phase])
        else:
            not_timed.append(ROUNDS[phase])

        seconds += count * float(own.get(phase, similar.get(phase, 0.0)))

    basis = _basis(timed_here, timed_elsewhere, not_timed, int(similar.get("trains", 0)))
    return TimeLeft(max(0.0, seconds - in_round), basis)


def seconds_per_step(run: TrainRun, now: float) -> float | None:
    """Of this attempt, time in the phase "training" alone."""
    first_step, earlier_seconds = run.facts.get("training_before") or [0, 0.0]
    steps = run.step - first_step
    if steps <= 0:
        return None

    seconds = spent_of(run.facts).get(TRAINING, (0, 0.0))[1]
    current = open_phase(run.facts)
    if current is not None and current[0] == TRAINING:
        seconds += now - current[1]

    return max(0.0, seconds - earlier_seconds) / steps if seconds > earlier_seconds else None


def rounds_left(run: TrainRun, phase: str) -> dict[str, Any]:
    """How often each phase of ROUNDS is still to come, the present round included. "at end": no
    step follows."""
    facts, step, total = run.facts, run.step, run.total_steps
    asks = int(run.parameters.get("sample_prompts") or 0) > 0

    if phase == ANSWERING and step > 0:
        return {EVALUATING: 0, SAVING: 0, ANSWERING: 1, "at end": True}
    if phase == SAVING and step >= total:
        return {EVALUATING: 0, SAVING: 1, ANSWERING: int(asks), "at end": True}

    evaluate_every, save_every = (
        int(facts.get("evaluate_every") or 0),
        int(facts.get("save_every") or 0),
    )
    measured = int(facts.get("evaluated_at", step))
    saving_now = int(phase == SAVING)

    return {
        EVALUATING: evaluations_left(min(measured, step), total, evaluate_every, save_every),
        SAVING: 1 + saving_now + checkpoints_left(step, total, save_every),
        ANSWERING: int(asks),
        "at end": False,
    }


def _own_means(run: TrainRun) -> dict[str, float]:
    """{phase: mean seconds of a round} of those that this train has had."""
    spent = spent_of(run.facts)
    return {phase: spent[phase][1] / spent[phase][0] for phase in ROUNDS if phase in spent}


def _basis(here: list[str], elsewhere: list[str], nowhere: list[str], trains: int) -> str:
    parts = []
    if here:
        parts.append(f"{_and(here)} as timed in this train")
    if elsewhere:
        parts.append(f"{_and(elsewhere)} as timed in {counted(trains, 'similar train')}")

    text = f"Includes {', '.join(parts)}." if parts else ""
    if nowhere:
        text += f" Does not include {_and(nowhere)}, not timed yet."

    return text.strip()


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

"""How long a running train still needs: its steps at the pace so far, and the evaluations,
checkpoints and sample answers that are still to come, each as long as such a round took before.

For a round that this train has not had yet, the times of similar trains are used. Where there are
none the round is left out, and the basis says so."""

from __future__ import annotations

from dataclasses import dataclass

from core.text import counted
from engine.contract.arithmetic import checkpoints_left, evaluations_left
from training.models import TrainRun
from training.train.phases import open_phase, spent_of

ANSWERING = "answering"
EVALUATING = "evaluating"
SAVING = "saving"
TRAINING = "training"
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

    phase, began = open_phase(run.facts) or ("", now)
    left = rounds_left(run, phase)
    own = _own_means(run)
    similar = run.facts.get("rounds_of_similar") or {}

    seconds = 0.0 if left.no_steps else pace * (run.total_steps - run.step)
    if phase in ROUNDS:
        # That much of the present round is over.
        seconds -= now - began

    timed_here: list[str] = []
    timed_elsewhere: list[str] = []
    not_timed: list[str] = []

    for name, count in left.rounds.items():
        if not count:
            continue

        if name in own:
            timed_here.append(ROUNDS[name])
            seconds += count * own[name]
        elif name in similar:
            timed_elsewhere.append(ROUNDS[name])
            seconds += count * float(similar[name])
        else:
            not_timed.append(ROUNDS[name])

    basis = _basis(timed_here, timed_elsewhere, not_timed, int(similar.get("trains", 0)))
    return TimeLeft(max(0.0, seconds), basis)


def seconds_per_step(run: TrainRun, now: float) -> float | None:
    """The mean of this attempt, counting only its time in the phase "training"."""
    first_step, earlier_seconds = run.facts.get("training_before") or [0, 0.0]
    steps = run.step - first_step
    if steps <= 0:
        return None

    _, seconds = spent_of(run.facts).get(TRAINING, (0, 0.0))
    phase, began = open_phase(run.facts) or ("", now)
    if phase == TRAINING:
        seconds += now - began

    seconds -= earlier_seconds
    return seconds / steps if seconds > 0 else None


@dataclass(frozen=True)
class RoundsLeft:
    """rounds: how often each phase of ROUNDS is still to come, the present round included.
    no_steps: whether no step of training follows."""

    rounds: dict[str, int]
    no_steps: bool = False


def rounds_left(run: TrainRun, phase: str) -> RoundsLeft:
    """`phase`: the one that the train is in."""
    step = run.step
    total = run.total_steps
    answering = int(int(run.parameters.get("sample_prompts") or 0) > 0)

    if phase == ANSWERING and step > 0:
        return RoundsLeft({ANSWERING: 1}, no_steps=True)
    if phase == SAVING and step >= total:
        return RoundsLeft({SAVING: 1, ANSWERING: answering}, no_steps=True)

    evaluate_every = int(run.facts.get("evaluate_every") or 0)
    save_every = int(run.facts.get("save_every") or 0)
    evaluated_at = int(run.facts.get("evaluated_at", step))
    evaluations = evaluations_left(min(evaluated_at, step), total, evaluate_every, save_every)

    # The last one saves the result.
    savings = checkpoints_left(step, total, save_every) + 1
    if phase == SAVING:
        savings += 1

    return RoundsLeft({EVALUATING: evaluations, SAVING: savings, ANSWERING: answering})


def _own_means(run: TrainRun) -> dict[str, float]:
    """{phase: mean seconds of a round} of the rounds that this train has had."""
    means: dict[str, float] = {}
    for phase, (rounds, seconds) in spent_of(run.facts).items():
        if phase in ROUNDS:
            means[phase] = seconds / rounds

    return means


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
    if len(words) == 1:
        return words[0]

    return f"{', '.join(words[:-1])} and {words[-1]}"

"""Which train of a sweep is the best so far, and how that went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from core.templatetags.display import significant
from core.text import counted
from sweeps.models import Sweep, Trial
from sweeps.progress import higher_is_better
from training.train.metrics import metric_title

State = Trial.State
DIGITS = 4
NOT_STARTED = "not started"


def number(value: float) -> str:
    return significant(value, DIGITS)


def hours_text(hours: float) -> str:
    return "1 hour" if hours == 1 else f"{hours:g} hours"


def tried(trials: Sequence[Trial]) -> list[Trial]:
    """Those that count against the budget: of a combination that was refused there is no train."""
    return [trial for trial in trials if not trial.is_refused]


def ranked(sweep: Sweep, trials: Sequence[Trial]) -> list[Trial]:
    """Complete trials, the best first; of two that are level the earlier one."""
    sign = -1 if higher_is_better(sweep.metric) else 1
    complete = [trial for trial in trials if trial.state == State.COMPLETE]
    return sorted(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number))


def best_trial(sweep: Sweep, trials: Sequence[Trial]) -> Trial | None:
    complete = ranked(sweep, trials)
    return complete[0] if complete else None


def best_so_far(sweep: Sweep, trials: Sequence[Trial]) -> list[tuple[int, float, float]]:
    """(number of the trial, its value, the best value up to it) of complete trials in order."""
    better = max if higher_is_better(sweep.metric) else min
    line: list[tuple[int, float, float]] = []
    for trial in sorted(trials, key=lambda trial: trial.number):
        if trial.state == State.COMPLETE and trial.value is not None:
            best = better(line[-1][2], trial.value) if line else trial.value
            line.append((trial.number, trial.value, best))

    return line


def _word(trial: Trial) -> str:
    if trial.state == State.OPEN and trial.began_at is None:
        return NOT_STARTED

    return State(trial.state).label.lower()


def counts_text(trials: Sequence[Trial]) -> str:
    """6 trains: 4 succeeded, 2 pruned"""
    counts = Counter(_word(trial) for trial in trials)
    words = [*(state.label.lower() for state in State), NOT_STARTED]
    parts = [f"{counts[word]} {word}" for word in words if counts[word]]

    return f"{counted(len(trials), 'train')}: {', '.join(parts)}" if parts else "No train yet"


def result_text(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """6 trains: 4 succeeded, 2 pruned. Best eval loss 1.842, of train #12."""
    best = best_trial(sweep, trials)
    text = f"{counts_text(trials)}."
    if best is None or best.value is None:
        return text

    of = f", of train #{best.run_id}" if best.run_id else ""
    return f"{text} Best {metric_title(sweep.metric)} {number(best.value)}{of}."

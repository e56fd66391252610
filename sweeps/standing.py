"""How a sweep stands, for pages and API: each trial with its train as far as the reader may see it,
and what the sweep does now as one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django.contrib.auth.models import AnonymousUser, User

from core.text import counted
from jobs.devices.presence import worker_state
from sweeps.models import Sweep, Trial
from sweeps.progress import trial_seconds
from sweeps.ranking import best_trial, hours_text, tried
from sweeps.space import Axis
from training.models import TrainRun
from training.train.durations import run_progress
from training.train.judgement import FEWEST_HELD_OUT_ROWS
from training.train.metrics import is_evaluation

Status = Sweep.Status
State = Trial.State
RunStatus = TrainRun.Status

# Of a trial whose train has not ended: what its train says.
TITLES = {
    State.COMPLETE: "Succeeded",
    State.PRUNED: "Pruned",
    State.FAILED: "Failed",
    State.STOPPED: "Stopped",
}
# The chip of each state, see core.templatetags.display.CHIPS.
CHIPS = {
    State.COMPLETE: "finished",
    State.PRUNED: "pruned",
    State.FAILED: "failed",
    State.STOPPED: "stopped",
}


@dataclass(frozen=True)
class Cell:
    """The value of one setting, as a page writes it."""

    title: str
    text: str
    unit: str
    is_number: bool


@dataclass(frozen=True)
class TrialRow:
    """A trial as this reader sees it. run: None where there is none, or the reader may not see it.
    cells: its values in the order of the axes."""

    trial: Trial
    run: TrainRun | None
    cells: list[Cell]
    is_best: bool

    @property
    def status(self) -> str:
        """finished, pruned, failed, stopped, queued, running or stopping; "" before its train."""
        run = self.trial.run
        if self.trial.state != State.OPEN:
            return CHIPS[State(self.trial.state)]

        return str(run.status) if run is not None else ""

    @property
    def status_title(self) -> str:
        run = self.trial.run
        if self.trial.state != State.OPEN:
            return TITLES[State(self.trial.state)]

        return str(run.get_status_display()) if run is not None else "Not started"

    @property
    def seconds(self) -> float:
        return trial_seconds(self.trial)

    @property
    def progress(self) -> float | None:
        return run_progress(self.run) if self.run is not None and not self.run.ended else None


def seen_of(sweeps: Iterable[Sweep], reader: User | AnonymousUser) -> set[int]:
    """Ids of the trains of sweeps that a reader may see, by one query."""
    ids = [trial.run_id for sweep in sweeps for trial in sweep.trials.all()]
    wanted = [pk for pk in ids if pk is not None]
    if not wanted:
        return set()

    visible = TrainRun.objects.visible_to(reader).filter(pk__in=wanted).order_by()
    return set(visible.values_list("pk", flat=True))


def trial_rows(sweep: Sweep, axes: Sequence[Axis], seen: set[int]) -> list[TrialRow]:
    trials = list(sweep.trials.all())
    best = best_trial(sweep, trials)
    return [
        TrialRow(
            trial=trial,
            run=trial.run if trial.run_id in seen else None,
            cells=[_cell(axis, trial) for axis in axes],
            is_best=best is not None and trial.pk == best.pk,
        )
        for trial in trials
    ]


def _cell(axis: Axis, trial: Trial) -> Cell:
    title = axis.field.title
    if axis.name not in trial.values:
        return Cell(title, "–", "", axis.is_number)

    value = trial.values[axis.name]
    return Cell(title, axis.field.shown(value), axis.field.unit_of(value), axis.is_number)


# How its trains are chosen and judged, behind the number of them.
SEARCHES = {"grid": "every combination", "random": "at random", "tpe": "by TPE"}


def search_text(sweep: Sweep) -> str:
    """by TPE, median pruner"""
    text = SEARCHES[sweep.search]
    if sweep.pruner == Sweep.Pruner.NONE:
        return text

    return f"{text}, {sweep.get_pruner_display().lower()} pruner"


def sweep_activity(sweep: Sweep) -> str:
    """What a sweep that is not over does now; "" for any other."""
    trials = list(sweep.trials.all())
    running = [trial for trial in trials if trial.state == State.OPEN]
    counts = dict.fromkeys(RunStatus, 0)
    for trial in running:
        if trial.run is not None:
            counts[RunStatus(trial.run.status)] += 1

    parts = []
    if counts[RunStatus.RUNNING]:
        parts.append(f"{counted(counts[RunStatus.RUNNING], 'train')} running")
    if counts[RunStatus.STOPPING]:
        parts.append(f"{counts[RunStatus.STOPPING]} stopping")
    if counts[RunStatus.QUEUED]:
        parts.append(f"{counts[RunStatus.QUEUED]} waiting")

    now = ", ".join(parts)
    made = _made_text(sweep, trials)
    if sweep.status == Status.PAUSED:
        return f"Paused after {made}{f'; {now}' if now else ''}."
    if sweep.status != Status.RUNNING:
        return f"{now.capitalize()}." if now else ""
    if now:
        return f"{made}: {now}."

    if held_up := next((trial.reason for trial in running if trial.reason), ""):
        return f"{made}. {held_up}"

    worker = worker_state()
    if trials and worker.device is None:
        return f"{made}. The next one waits for a worker. {worker.message}"

    return "The next train is about to join the queue."


def _made_text(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """2 of 6 trains; 2 trains, where hours decide how many there will be."""
    made = len(tried(trials))
    if sweep.budget_asked is None and sweep.budget_hours is not None:
        return counted(made, "train")

    return f"{made} of {counted(sweep.budget_trains, 'train')}"


def budget_text(sweep: Sweep) -> str:
    """12 trains, 5.5 hours in total"""
    parts = []
    if sweep.budget_asked is not None:
        parts.append(counted(sweep.budget_asked, "train"))
    if sweep.budget_hours is not None:
        parts.append(f"{hours_text(sweep.budget_hours)} in total")

    return ", ".join(parts) or "Every combination"


def chance_text(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """Why the best may be best by chance, or nothing."""
    best = best_trial(sweep, trials)
    if best is None or best.run is None or not is_evaluation(sweep.metric):
        return ""

    rows = best.run.facts.get("eval_rows")
    if rows is None or rows >= FEWEST_HELD_OUT_ROWS:
        return ""

    return (
        f"Measured on {counted(rows, 'held-out row')}: which train is best may be chance. A verdict "
        f"needs at least {FEWEST_HELD_OUT_ROWS} rows."
    )

"""What a search and a pruner know of the trials of a sweep, from its rows and those of its trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from core.errors import UserError
from jobs.durations import run_seconds
from methods.schema import Field, method_fields
from sweeps.models import Sweep, Trial
from sweeps.space import Space, space_of
from sweeps.study import Past, Plan
from training.train.metrics import LOWER_IS_BETTER, is_evaluation, metric_points

State = Trial.State
Points = list[tuple[int, float]]

# Trains of different lengths are compared where the same share of them is done, in per cent.
SHARE = 5


def sweep_fields(sweep: Sweep) -> dict[str, Field]:
    return method_fields(sweep.method) if sweep.method is not None else {}


def sweep_space(sweep: Sweep) -> Space:
    """Raises UserError where the method no longer has what the sweep changes."""
    if sweep.method is None:
        raise UserError({"method": ["Its method was deleted."]})

    return space_of(sweep_fields(sweep), sweep.space, sweep.shared_parameters)


def higher_is_better(metric: str) -> bool:
    return metric not in LOWER_IS_BETTER


def sweep_plan(sweep: Sweep) -> Plan:
    """Raises UserError, as sweep_space does."""
    return Plan(
        space=sweep_space(sweep),
        search=sweep.search,
        pruner=sweep.pruner,
        percentile=sweep.percentile,
        maximize=higher_is_better(sweep.metric),
        trains=sweep.budget_trains,
        seed=sweep.seed,
    )


def trial_seconds(trial: Trial) -> float:
    """How long its trains ran so far, all attempts together."""
    if trial.run is None:
        return trial.seconds

    return trial.earlier_seconds + (run_seconds(trial.run) or 0.0)


def trial_points(trial: Trial, metric: str) -> Points:
    """(step, value) of the metric so far. A metric that is logged at every step is summed up to its
    mean over each share of the train that is complete."""
    run = trial.run
    if run is None or trial.state != State.OPEN:
        return [(int(step), float(value)) for step, value in trial.reports]

    points = metric_points(run, metric)
    if is_evaluation(metric):
        return points

    return _means(points, run.total_steps, is_whole=run.ended)


def _means(points: Points, total: int, *, is_whole: bool) -> Points:
    """(last step, mean) of each share; the newest one is left out while more may come."""
    shares: dict[int, Points] = {}
    for step, value in points:
        shares.setdefault(_share(step, total), []).append((step, value))

    means = [
        (inside[-1][0], fmean(value for _, value in inside)) for _, inside in sorted(shares.items())
    ]
    return means if is_whole else means[:-1]


def _share(step: int, total: int) -> int:
    """Of `total` steps, in per cent, rounded down."""
    done = 100 * step // total if total else 0
    return done // SHARE * SHARE


def may_have_news(trial: Trial, metric: str) -> bool:
    """Whether a train that runs may have reported since the pruner was last asked. A metric of
    every step has many rows, which are read once for each share of the train that is complete."""
    run = trial.run
    if run is None or not run.total_steps:
        return False
    if is_evaluation(metric):
        return True

    judged = _share(trial.judged_step, run.total_steps) + SHARE if trial.judged_step else 0
    return _share(run.step, run.total_steps) >= judged + SHARE


def trial_total(trial: Trial) -> int:
    """Steps of its train; 0 where that is not known yet."""
    return trial.run.total_steps if trial.run is not None else trial.total_steps


@dataclass(frozen=True)
class Scale:
    """Where reports of different trains stand: at their step where all trains have equally many,
    else at the share of the train that was done, in per cent."""

    by_step: bool

    def place(self, step: int, total: int) -> int:
        return step if self.by_step else _share(step, total)


def scale_of(sweep: Sweep, trials: Sequence[Trial]) -> Scale:
    totals = {trial_total(trial) for trial in trials} - {0}
    return Scale(len(totals) <= 1 and is_evaluation(sweep.metric))


def past_of(sweep: Sweep, trials: Sequence[Trial]) -> list[Past]:
    """The trials as the study takes them, in their order."""
    scale = scale_of(sweep, trials)
    past = []

    for trial in trials:
        total = trial_total(trial)
        points = trial_points(trial, sweep.metric)
        past.append(
            Past(
                values=trial.values,
                state=trial.state,
                value=trial.value,
                reports={scale.place(step, total): value for step, value in points},
                end=total if scale.by_step else 100,
                marks=trial.marks,
            )
        )

    return past

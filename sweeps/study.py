"""Which combination is tried next, which train is worth no more steps, and what the results say of
each setting: Optuna as a function over the rows of a sweep.

The study is built anew for each question from what the caller knows and is forgotten with the
answer. The same rows give the same answer, so that a question that was interrupted can be asked
again. Optuna is imported when it is asked, so that the web process never loads it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sweeps.space import MOST_ENUMERATED, Axis, Space, Values, values_key

if TYPE_CHECKING:
    import optuna

OPEN, COMPLETE, PRUNED = "open", "complete", "pruned"
# How often a search that learns is asked where its answers were tried before: it may go on and on
# with what it likes best. Then it is left to chance.
TRIES = 8
TRIES_AT_RANDOM = 30
# Digits that are worth a choice: 0.00018273645 tells nothing more than 0.0001827.
DIGITS = 4
# With fewer complete trains a share for each setting would be chance.
FEWEST_FOR_IMPORTANCE = 12
# The best so many of all are what the importance of a setting is judged by.
TARGET_SHARE = 0.25
# Before this share of a train nothing is pruned: every train begins badly.
WARM_UP = 0.25
# Successive halving: one of so many goes on from each rung. The first is where the warm-up ends, and
# the next one at so many times its steps.
REDUCTION = 3


@dataclass(frozen=True)
class Past:
    """A trial as far as a search and a pruner need it.

    reports: {position: value} of the metric; a position is comparable between trials. end: the
    position of its last step. marks: what the pruner left on it."""

    values: Values
    state: str
    value: float | None = None
    reports: dict[int, float] = field(default_factory=dict)
    end: int = 0
    marks: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How a sweep looks for the best. search: grid, random or tpe. pruner: none, median, percentile
    or halving. trains: how many there may be in all."""

    space: Space
    search: str
    pruner: str
    percentile: int
    maximize: bool
    trains: int
    seed: int

    @property
    def startup(self) -> int:
        """How many complete trains a median is taken of at least."""
        return min(5, max(2, self.trains // 4))


def values_ask(plan: Plan, past: Sequence[Past]) -> Values | None:
    """The next combination, which none of `past` has; None where every one was tried."""
    tried = {values_key(trial.values) for trial in past}
    product = plan.space.product
    if plan.search == "grid" or (product is not None and product <= len(past)):
        return _untried(plan, tried)

    for values in _proposals(plan, past):
        if values_key(values) not in tried:
            return values

    # Few are left: any of them, where all can be listed.
    return _untried(plan, tried) if product is not None and product <= MOST_ENUMERATED else None


def _proposals(plan: Plan, past: Sequence[Past]) -> Iterator[Values]:
    """What the search proposes, and then chance: the later ones with all their digits, of which a
    narrow range needs more."""
    if plan.search != "random":
        for attempt in range(TRIES):
            yield _asked(plan, past, _sampler(plan, _seed(plan.seed, len(past), attempt)))

    by_chance = replace(plan, search="random")
    for attempt in range(TRIES_AT_RANDOM):
        sampler = _sampler(by_chance, _seed(plan.seed, len(past), attempt))
        # It takes no notice of the past.
        yield _asked(plan, (), sampler, is_rounded=attempt < TRIES_AT_RANDOM // 2)


def _untried(plan: Plan, tried: set[str]) -> Values | None:
    """The first that was not tried, in the order in which the values were given; where not all will
    be tried in one of the sweep's own, so that the first few are not all alike."""
    everything = list(plan.space.combinations())
    if plan.trains < len(everything):
        random.Random(plan.seed).shuffle(everything)  # noqa: S311 - no secret
    return next((values for values in everything if values_key(values) not in tried), None)


def _seed(*numbers: int) -> int:
    return random.Random("-".join(map(str, numbers))).getrandbits(31)  # noqa: S311 - no secret


def _sampler(plan: Plan, seed: int) -> optuna.samplers.BaseSampler:
    samplers = _optuna().samplers
    sampler: optuna.samplers.BaseSampler
    if plan.search == "random":
        sampler = samplers.RandomSampler(seed=seed)
    else:
        # What is random at first is taken off a small budget.
        startup = max(4, min(10, plan.trains // 3))
        sampler = samplers.TPESampler(seed=seed, n_startup_trials=startup)

    return sampler


def _asked(
    plan: Plan,
    past: Sequence[Past],
    sampler: optuna.samplers.BaseSampler,
    *,
    is_rounded: bool = True,
) -> Values:
    """What the sampler proposes: a setting that has no effect is not asked for."""
    trial = _study(plan, past, sampler).ask()
    values: Values = {}
    for axis in plan.space.axes:
        if plan.space.is_active(axis, values):
            values[axis.name] = _suggested(trial, axis, is_rounded=is_rounded)

    return values


def _suggested(trial: optuna.Trial, axis: Axis, *, is_rounded: bool) -> Any:
    if not axis.is_range:
        choices = [_choice(value) for value in axis.values]
        return json.loads(trial.suggest_categorical(axis.name, choices))
    if axis.is_whole:
        return trial.suggest_int(axis.name, int(axis.low), int(axis.high), log=axis.log)

    value = trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log)
    if is_rounded:
        value = float(f"{value:.{DIGITS}g}")

    return min(max(value, axis.low), axis.high)


def _choice(value: Any) -> str:
    """Categories are text: a list of layers is a value too."""
    return json.dumps(value)


# Pruning


@dataclass(frozen=True)
class Decision:
    """Whether a train is to end. bound: the value that it had to reach, None where there was none
    to compare with. others: how many trains that value is taken of. marks: to keep for the next
    question."""

    is_pruned: bool
    bound: float | None = None
    others: int = 0
    marks: dict[str, Any] = field(default_factory=dict)


def prune_ask(plan: Plan, past: Sequence[Past], number: int, position: int) -> Decision:
    """Whether the trial past[number] is worth going on after its report at `position`."""
    trial = past[number]
    if plan.pruner == "none" or position >= trial.end:
        return Decision(False, marks=trial.marks)

    until_now = {at: value for at, value in trial.reports.items() if at <= position}
    seen = [_reported_by(position, other) for other in past]
    seen[number] = replace(trial, reports=until_now, state=OPEN)
    pruner = _pruner(plan, trial.end)
    study = _study(plan, seen, _optuna().samplers.RandomSampler(seed=0))
    is_pruned = pruner.prune(study, study.trials[number])
    # What a rung was reached with is kept all the same: later trains are compared with it.
    is_pruned = is_pruned and sum(each.state == COMPLETE for each in past) >= plan.startup
    marks = dict(study.trials[number].system_attrs)

    if plan.pruner == "halving":
        bound, others = _rung_bound(plan, study, marks)
    else:
        bound, others = _percentile_bound(plan, seen, position)

    return Decision(is_pruned, bound, others, marks)


def _reported_by(position: int, trial: Past) -> Past:
    """The trial with its last report before `position` there, where it has none: trains of different
    lengths are evaluated at different shares, and a pruner compares at equal ones."""
    before = [at for at in trial.reports if at < position]
    if trial.state != COMPLETE or position in trial.reports or not before:
        return trial

    return replace(trial, reports=trial.reports | {position: trial.reports[max(before)]})


def _pruner(plan: Plan, end: int) -> optuna.pruners.BasePruner:
    pruners = _optuna().pruners
    pruner: optuna.pruners.BasePruner
    if plan.pruner == "halving":
        first = max(1, math.ceil(WARM_UP * end))
        pruner = pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION)
    else:
        pruner = pruners.PercentilePruner(
            _percent(plan),
            n_startup_trials=plan.startup,
            n_warmup_steps=math.ceil(WARM_UP * end),
            n_min_trials=plan.startup,
        )

    return pruner


def _percent(plan: Plan) -> float:
    return 50.0 if plan.pruner == "median" else float(plan.percentile)


def _percentile_bound(plan: Plan, past: Sequence[Past], position: int) -> tuple[float | None, int]:
    """What a percentile pruner compares with, as Optuna's takes it."""
    import numpy as np

    values = [
        trial.reports[position]
        for trial in past
        if trial.state == COMPLETE and position in trial.reports
    ]
    if not values:
        return None, 0

    percent = _percent(plan)
    bound = float(np.percentile(values, 100 - percent if plan.maximize else percent))
    return bound, len(values)


def _rung_bound(plan: Plan, study: optuna.Study, marks: dict[str, Any]) -> tuple[float | None, int]:
    """The worst value that goes on from the last rung that the trial has reached."""
    if not marks:
        return None, 0

    key = max(marks, key=lambda name: int(name.rpartition("_")[2]))
    others = [trial.system_attrs[key] for trial in study.trials if key in trial.system_attrs]
    others.sort(reverse=plan.maximize)
    return others[max(0, len(others) // REDUCTION - 1)], len(others)


# What the results say


def importance_ask(plan: Plan, past: Sequence[Past]) -> dict[str, float]:
    """{setting: its share of what makes trains good}; empty with too few complete trains."""
    complete = [trial for trial in past if trial.state == COMPLETE]
    if len(complete) < FEWEST_FOR_IMPORTANCE or len({trial.value for trial in complete}) < 2:
        return {}

    library = _optuna()
    study = _study(plan, complete, library.samplers.RandomSampler(seed=0))
    judge = library.importance.PedAnovaImportanceEvaluator(target_quantile=TARGET_SHARE)
    shares = library.importance.get_param_importances(study, evaluator=judge)
    return {name: float(share) for name, share in shares.items() if math.isfinite(share)}


# The study


def _optuna() -> Any:
    import optuna

    # What it does is told on the sweep's page.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _study(plan: Plan, past: Sequence[Past], sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """All of `past` in its order: the trial of that number is study.trials[number]."""
    library = _optuna()
    study: optuna.Study = library.create_study(
        sampler=sampler,
        pruner=library.pruners.NopPruner(),
        direction="maximize" if plan.maximize else "minimize",
    )
    axes = {axis.name: axis for axis in plan.space.axes}
    study.add_trials([_frozen(axes, trial) for trial in past])
    return study


def _frozen(axes: dict[str, Axis], trial: Past) -> optuna.trial.FrozenTrial:
    library = _optuna()
    states = library.trial.TrialState
    state = {OPEN: states.RUNNING, COMPLETE: states.COMPLETE, PRUNED: states.PRUNED}
    values = {name: value for name, value in trial.values.items() if name in axes}

    frozen: optuna.trial.FrozenTrial = library.trial.create_trial(
        # One that failed, or that a person stopped, says nothing of its values.
        state=state.get(trial.state, states.FAIL),
        value=trial.value if trial.state == COMPLETE else None,
        params={name: _known(axes[name], value) for name, value in values.items()},
        distributions={name: _distribution(axes[name]) for name in values},
        intermediate_values=trial.reports,
        system_attrs=trial.marks,
    )
    return frozen


def _known(axis: Axis, value: Any) -> Any:
    return value if axis.is_range else _choice(value)


def _distribution(axis: Axis) -> optuna.distributions.BaseDistribution:
    known = _optuna().distributions
    distribution: optuna.distributions.BaseDistribution
    if not axis.is_range:
        distribution = known.CategoricalDistribution([_choice(value) for value in axis.values])
    elif axis.is_whole:
        distribution = known.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    else:
        distribution = known.FloatDistribution(axis.low, axis.high, log=axis.log)

    return distribution

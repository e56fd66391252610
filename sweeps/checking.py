"""Everything that can be said against a sweep before it starts: its first train is checked as any
train is, each further value by itself, and what is to be tried by how much it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User

from core.errors import UserError
from datasets_app.models import Dataset
from jobs.devices.launchers import ANYWHERE
from methods.models import TrainingMethod
from methods.schema import Field, method_fields
from methods.services import parameters_validate
from models_app.models import BaseModel
from sweeps.models import Sweep
from sweeps.space import Axis, Space, Values, space_of
from training.forecast.inputs import DECIDING, reward_model_bytes
from training.forecast.making import forecast_make
from training.models import TrainRun
from training.train.carrying_on import GIVEN_PARAMETERS, carried_parameters
from training.train.metrics import is_evaluation, method_metrics
from training.train.plan import plan_check, train_plan
from training.train.services import TrainCheck, memory_check, train_check
from training.train.verdict import settings_of_measure

Errors = dict[str, list[str]]

# A pruner compares trains at their evaluations, the last of which comes too late.
FEWEST_EVALUATIONS = 4
# Values that are tried one by one beside the first of all others.
MOST_CHECKED = 60
# Of these, so many whether they fit.
MOST_FORECASTS = 8


@dataclass
class Request:
    """A sweep as it is asked for. labels, parameters: of every train. is_form: they are those of a
    form, whose controls hold defaults that nobody chose."""

    owner: User
    method: TrainingMethod
    base_model: BaseModel | None
    dataset: Dataset | None
    space: dict[str, Any]
    evaluation_dataset: Dataset | None = None
    parameters: Values = field(default_factory=dict)
    system_prompt: str = ""
    notes: str = ""
    labels: list[str] = field(default_factory=list)
    continue_adapter: bool = False
    priority: int = TrainRun.Priority.NORMAL
    starts_after: TrainRun | None = None
    start_anyway: bool = False
    launcher: str = ANYWHERE
    name: str = ""
    metric: str = ""
    search: str = ""
    pruner: str = Sweep.Pruner.NONE
    percentile: int = 25
    budget_trains: int | None = None
    budget_hours: float | None = None
    seed: int = 0
    is_form: bool = False


@dataclass
class SweepCheck:
    """What stands against a sweep, by field, and what it comes to.

    combinations: how many there are, None with a range of real numbers. trains: how many it makes
    at most, 0 while that is not known. first: of the first combination."""

    errors: Errors = field(default_factory=dict)
    combinations: int | None = None
    trains: int = 0
    space: Space | None = None
    first: TrainCheck | None = None
    refusals: list[UserError] = field(default_factory=list)

    def refuse(self, name: str, text: str) -> None:
        texts = self.errors.setdefault(name, [])
        if text not in texts:
            texts.append(text)

    def refuse_all(self, errors: Errors) -> None:
        for name, texts in errors.items():
            for text in texts:
                self.refuse(name, text)

    def insist(self) -> Space:
        """Raises UserError with every reason why the sweep cannot start."""
        if self.errors or self.space is None:
            # A full disk keeps its code and status (507).
            refusals = self.first.refusals if self.first is not None else []
            special = [refusal for refusal in refusals if refusal.status != 400]
            if special:
                first = special[0]
                raise UserError(self.errors, code=first.code, status=first.status)

            raise UserError(self.errors)

        return self.space


def metric_or_usual(request: Request) -> str:
    """What was asked for, or what trains of the method are judged by."""
    return request.metric or next(iter(method_metrics(request.method)))


def search_or_usual(request: Request, space: Space) -> str:
    """What was asked for, else every combination where there are only values."""
    if request.search:
        return request.search

    return Sweep.Search.TPE if space.product is None else Sweep.Search.GRID


def percentile_of(request: Request) -> int:
    """What is kept: it counts, and is looked at, with the pruner of that name alone."""
    is_used = request.pruner == Sweep.Pruner.PERCENTILE
    return request.percentile if is_used else Request.percentile


def sweep_check(request: Request, *, device: str) -> SweepCheck:
    """device: "cpu" or "cuda", what the worker has. Writes nothing."""
    check = SweepCheck()
    fields = method_fields(request.method, device=device)
    try:
        check.space = space_of(fields, request.space, request.parameters)
    except UserError as refusal:
        check.refuse_all(refusal.fields)
        return check

    _check_settings(check, request, fields)
    _check_search(check, request, check.space)
    _check_trains(check, request, check.space, device)
    _check_metric(check, request, check.space)
    _check_pruner(check, request, fields)
    return check


def _check_settings(check: SweepCheck, request: Request, fields: dict[str, Field]) -> None:
    assert check.space is not None
    if not request.continue_adapter:
        return

    for axis in check.space.axes:
        if axis.name in GIVEN_PARAMETERS:
            title = fields[axis.name].title
            check.refuse(axis.name, f"{title} is that of the adapter that is continued.")


def _check_search(check: SweepCheck, request: Request, space: Space) -> None:
    """How many trains it makes, and whether that is too many."""
    limit = settings.SWEEP_TRAINS
    search = search_or_usual(request, space)
    check.combinations = space.count()
    wanted = request.budget_trains
    hours = request.budget_hours

    if search not in Sweep.Search.values:
        check.refuse("search", f"Give one of {', '.join(Sweep.Search.values)}.")
    if hours is not None and not (math.isfinite(hours) and hours > 0):
        check.refuse("budget_hours", "Give a number of hours above 0.")
    if wanted is not None and wanted < 1:
        check.refuse("budget_trains", "Give a number of trains, at least 1.")
    if check.errors:
        return

    ranges = [axis for axis in space.axes if axis.count is None]
    if search == Sweep.Search.GRID and ranges:
        title = ranges[0].field.title
        check.refuse(
            "search",
            f"A range has endless values, so not every combination can be tried. Give "
            f"{title.lower()} values, or choose another search.",
        )
        return

    if search == Sweep.Search.GRID and (check.combinations or 0) > limit:
        check.refuse(
            "search",
            f"There are {check.combinations:,} combinations, and a sweep makes at most {limit:,} "
            "trains. Give fewer values, or choose another search with a budget.",
        )
        return

    if search != Sweep.Search.GRID and wanted is None and hours is None:
        check.refuse("budget_trains", "Say how many trains, or how many hours.")
        return
    if wanted is not None and wanted > limit:
        text = f"A sweep makes at most {limit:,} trains; {wanted:,} is more."
        check.refuse("budget_trains", text)
        return

    most = limit if check.combinations is None else min(limit, check.combinations)
    check.trains = min(most, wanted) if wanted is not None else most


def _check_trains(check: SweepCheck, request: Request, space: Space, device: str) -> None:
    first = {axis.name: axis.edges()[0] for axis in space.axes}
    parameters = request.parameters | space.kept(first)
    check.first = train_check(
        owner=request.owner,
        method=request.method,
        base_model=request.base_model,
        dataset=request.dataset,
        evaluation_dataset=request.evaluation_dataset,
        parameters=parameters,
        system_prompt=request.system_prompt,
        priority=request.priority,
        starts_after=request.starts_after,
        labels=request.labels,
        continue_adapter=request.continue_adapter,
        start_anyway=request.start_anyway,
        held=request.space,
        launcher=request.launcher,
        device=device,
    )
    check.refuse_all(check.first.errors)
    if check.errors:
        return

    forecasts = 0
    for axis, value, values in _others(space, first):
        # Each asks the database for what earlier trains took.
        looks_at_memory = axis.name in DECIDING and forecasts < MOST_FORECASTS
        forecasts += looks_at_memory
        try:
            _check_one(request, values, device, looks_at_memory=looks_at_memory)
        except UserError as refusal:
            about = f"With {axis.field.title.lower()} {axis.field.shown(value)}: "
            for name, texts in refusal.fields.items():
                place = name if name in request.space else axis.name
                for text in texts:
                    check.refuse(place, about + text)


def _others(space: Space, first: Values) -> Iterator[tuple[Axis, Any, Values]]:
    """(axis, value, combination) of each other value of each axis, beside the first of the rest."""
    count = 0
    for axis in space.axes:
        for value in axis.edges()[1:]:
            count += 1
            if count > MOST_CHECKED:
                return

            yield axis, value, space.kept(first | {axis.name: value})


def _check_one(request: Request, values: Values, device: str, *, looks_at_memory: bool) -> None:
    """Raises UserError for a combination that no train can have."""
    parameters = request.parameters | values
    if request.continue_adapter and request.base_model is not None:
        parameters = carried_parameters(
            request.method, request.base_model, parameters, request.owner
        )

    resolved = parameters_validate(request.method, parameters, device=device)
    if request.base_model is None or request.dataset is None:
        return

    plan = train_plan(
        method=request.method,
        base_model=request.base_model,
        dataset=request.dataset,
        evaluation_dataset=request.evaluation_dataset,
        parameters=resolved,
    )
    plan_check(plan)
    if not looks_at_memory:
        return

    forecast = forecast_make(
        method=request.method,
        base_model=request.base_model,
        dataset=request.dataset,
        evaluation_dataset=request.evaluation_dataset,
        parameters=resolved,
        steps=plan.steps,
        system_prompt=request.system_prompt,
        # What is not there is refused with the first combination.
        reward_bytes=reward_model_bytes(resolved, request.owner) or 0,
        launcher=request.launcher,
        held=request.space,
    )
    memory_check(forecast, request.owner, request.start_anyway)


def _check_metric(check: SweepCheck, request: Request, space: Space) -> None:
    """Whether trains report the metric, and whether it says which of them is better."""
    metric = metric_or_usual(request)
    known = method_metrics(request.method)
    plan = check.first.plan if check.first is not None else None

    if metric not in known:
        check.refuse("metric", f"{request.method.name} measures {', '.join(known)}.")
        return
    if (
        is_evaluation(metric)
        and plan is not None
        and plan.eval_rows == 0
        and not request.method.is_custom
    ):
        check.refuse("metric", f"No rows are held out, so {known[metric]} is never measured.")

    own_split = request.evaluation_dataset is None
    moving = settings_of_measure(metric, own_split=own_split)
    for axis in space.axes:
        if axis.name not in moving:
            continue

        remedy = " Choose an evaluation dataset." if _is_of_split(axis, metric) else ""
        check.refuse(
            axis.name,
            f"Trains with another {axis.field.title.lower()} are measured differently, so the "
            f"{known[metric]} does not tell which is better.{remedy}",
        )


def _is_of_split(axis: Axis, metric: str) -> bool:
    """Whether it decides only about which rows are held out."""
    return axis.name not in settings_of_measure(metric, own_split=False)


def _check_pruner(check: SweepCheck, request: Request, fields: dict[str, Field]) -> None:
    pruner = request.pruner
    if pruner not in Sweep.Pruner.values:
        check.refuse("pruner", f"Give one of {', '.join(Sweep.Pruner.values)}.")
        return
    if pruner == Sweep.Pruner.NONE:
        return

    if pruner == Sweep.Pruner.PERCENTILE and not 1 <= request.percentile <= 99:
        check.refuse("percentile", "Give a number from 1 to 99.")

    every = fields.get("evaluation_every")
    if every is None or not is_evaluation(metric_or_usual(request)):
        return

    share = request.parameters.get("evaluation_every", every.default)
    if isinstance(share, int | float) and share * FEWEST_EVALUATIONS > 1:
        check.refuse(
            "pruner",
            f"A pruner needs at least {FEWEST_EVALUATIONS} evaluations of each train. Set "
            f"“{every.title}” to {100 // FEWEST_EVALUATIONS}% or less, or choose no pruner.",
        )

"""Everything that changes a sweep. Pages, API and admin call these; how it goes on by itself stands
in sweeps.advancing."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone

from core.errors import UserError
from core.ownership import deletion_check, owner_check
from core.text import clean_label, clean_text
from jobs.devices.presence import worker_state
from jobs.services import jobs_follow
from methods.schema import method_fields
from sweeps.checking import (
    Request,
    SweepCheck,
    metric_or_usual,
    percentile_of,
    search_or_usual,
    sweep_check,
)
from sweeps.models import Sweep, Trial
from sweeps.progress import trial_seconds
from sweeps.space import Values
from training.models import TrainRun
from training.train.launching import device_kind_for
from training.train.resuming import train_resume
from training.train.services import train_stop
from training.work.queue import may_manage_queue

Status = Sweep.Status
State = Trial.State
RunStatus = TrainRun.Status
LONGEST_NAME = 100


def sweep_start(request: Request, *, idempotency_key: str = "") -> tuple[Sweep, bool]:
    """Check everything and write the sweep, whose first trains join the queue within seconds.
    Returns (sweep, whether it is new).

    The same owner with the same key gets the sweep that the first call made. Raises UserError by
    field."""
    earlier = Sweep.of_key(request.owner, idempotency_key)
    if earlier is not None:
        return earlier, False

    device = device_kind_for(request.launcher, worker_state())
    check = sweep_check(request, device=device)
    space = check.insist()
    assert request.dataset is not None
    assert check.first is not None
    name = clean_label(request.name, limit=LONGEST_NAME)
    given, settled = parameters_split(request, check, device)

    sweep = Sweep(
        owner=request.owner,
        name=name or f"{request.dataset.slug}-{request.method.slug}"[:LONGEST_NAME],
        method=request.method,
        method_version=request.method.version,
        base_model=request.base_model,
        dataset=request.dataset,
        evaluation_dataset=request.evaluation_dataset,
        has_evaluation_dataset=request.evaluation_dataset is not None,
        parameters=given,
        settled=settled,
        system_prompt=clean_text(request.system_prompt),
        notes=clean_text(request.notes),
        labels=check.first.labels,
        continue_adapter=request.continue_adapter,
        launcher=request.launcher,
        priority=request.priority,
        start_anyway=request.start_anyway and may_manage_queue(request.owner),
        starts_after=request.starts_after,
        space={axis.name: axis.as_dict() for axis in space.axes},
        metric=metric_or_usual(request),
        search=search_or_usual(request, space),
        pruner=request.pruner,
        percentile=percentile_of(request),
        budget_trains=check.trains,
        budget_asked=request.budget_trains,
        budget_hours=request.budget_hours,
        seed=request.seed or random.getrandbits(31),
        idempotency_key=idempotency_key or None,
    )
    try:
        with transaction.atomic():
            sweep.save()
    except IntegrityError:
        # The other half of a double click was faster.
        earlier = Sweep.of_key(request.owner, idempotency_key)
        if earlier is None:
            raise

        return earlier, False

    return sweep, True


def parameters_split(request: Request, check: SweepCheck, device: str) -> tuple[Values, Values]:
    """What all trains of a sweep share: (what was given, what is settled beside it). Settled are the
    current defaults on this device, which may be others when its last train starts. They are kept
    apart because a copy of the sweep uses the defaults at its own start. What follows from other settings is
    left out."""
    assert check.space is not None
    assert check.first is not None
    swept = {axis.name for axis in check.space.axes}
    fields = method_fields(request.method, device=device)

    given = {name: value for name, value in request.parameters.items() if name not in swept}
    if request.is_form:
        given = {
            name: value
            for name, value in given.items()
            if name not in fields or value != fields[name].default
        }

    # Epochs that were given as well would be refused.
    unsettled = swept | given.keys() | ({"epochs"} if "max_steps" in swept else set())
    settled = {
        name: value
        for name, value in (check.first.parameters or {}).items()
        if name in fields and name not in unsettled and value == fields[name].default
    }
    return given, settled


def sweep_rename(*, sweep: Sweep, by: User, name: str) -> Sweep:
    """Its trains keep their names. Raises UserError where the name is blank."""
    owner_check(sweep, by)
    name = clean_label(name, limit=LONGEST_NAME)
    if not name:
        raise UserError({"name": ["Give the sweep a name."]})

    Sweep.objects.filter(pk=sweep.pk).update(name=name)
    sweep.name = name
    return sweep


def sweep_pause(*, sweep: Sweep, by: User) -> Sweep:
    """No further train is added; those that wait or run go on. Raises UserError where the sweep
    does not run."""
    owner_check(sweep, by)
    if sweep.status == Status.PAUSED:
        return sweep
    if sweep.status != Status.RUNNING or not sweep.transition(Status.PAUSED):
        raise UserError("Only a running sweep can be paused.", code="wrong_state")

    return sweep


def sweep_stop(*, sweep: Sweep, by: User) -> Sweep:
    """No further train is added, and its trains that wait or run are stopped, which saves what they
    have learned. One that has ended stays as it is."""
    owner_check(sweep, by)
    with transaction.atomic():
        # Nothing begins meanwhile.
        sweep = Sweep.objects.select_for_update(of=("self",)).get(pk=sweep.pk)
        if sweep.is_active:
            sweep.transition(Status.STOPPED, reason="")
            trials_halt(sweep, sweep.trials.filter(state=State.OPEN).select_related("run"))

    return sweep


def trials_halt(sweep: Sweep, trials: Iterable[Trial]) -> None:
    """Stop the trains of these trials, which go on when the sweep does; one that a person is
    stopping already does not. A combination that never had a train is forgotten: it is asked for
    again. Call it under the sweep's lock."""
    for trial in trials:
        run = trial.run
        if trial.began_at is None and not trial.earlier_seconds:
            trial.delete()
            continue
        if run is None or run.owner_id != sweep.owner_id:
            continue
        if run.ended or run.status == RunStatus.STOPPING:
            continue

        Trial.objects.filter(pk=trial.pk).update(is_halted=True)
        trial.is_halted = True
        train_stop(run=run, by=owner_of(run))


def owner_of(run: TrainRun) -> User:
    assert run.owner is not None
    return run.owner


def sweep_continue(*, sweep: Sweep, by: User) -> Sweep:
    """Let a paused or stopped sweep go on: trains that were stopped with it resume where they were,
    or wait again. Raises UserError for any other, and where such a train cannot resume."""
    owner_check(sweep, by)
    with transaction.atomic():
        sweep = Sweep.objects.select_for_update(of=("self",)).get(pk=sweep.pk)
        if sweep.status == Status.RUNNING:
            return sweep
        if sweep.status not in (Status.PAUSED, Status.STOPPED):
            raise UserError("This sweep has tried all that it was to try.", code="wrong_state")

        halted = list(sweep.trials.filter(is_halted=True).select_related("run__method"))
        if any(_is_stopping(sweep, trial) for trial in halted):
            raise UserError("Its trains are still stopping. Try again in a moment.")

        sweep.transition(Status.RUNNING, reason="", failures_from=timezone.now())
        for trial in halted:
            _go_on(sweep, trial)

    return sweep


def _is_stopping(sweep: Sweep, trial: Trial) -> bool:
    run = trial.run
    is_own = run is not None and run.owner_id == sweep.owner_id
    return is_own and run is not None and run.status == RunStatus.STOPPING


def _go_on(sweep: Sweep, trial: Trial) -> None:
    """A trial that was stopped with its sweep is open again: its train resumes, or another is made
    of the same values. Raises UserError where it cannot resume."""
    values: dict[str, Any] = {"is_halted": False}
    opened = {"state": State.OPEN, "ended_at": None, "reason": ""}
    run = trial.run

    if trial.state == State.COMPLETE:
        # Its train had come to its end before it was stopped, and may have been deleted since.
        pass
    elif run is not None and (run.owner_id != sweep.owner_id or run.status == RunStatus.FINISHED):
        # It is somebody else's by now, or had come to its end before it was stopped.
        pass
    elif run is not None and not run.ended:
        # A person has resumed it meanwhile.
        values |= opened | {"is_resumed": True}
    elif run is None or run.method.is_custom:
        spent = trial_seconds(trial)
        values |= opened | {"run": None, "began_at": None, "judged_step": 0, "marks": {}}
        values |= {"seconds": spent, "earlier_seconds": spent}
    else:
        values |= opened
        _resume(run)

    Trial.objects.filter(pk=trial.pk).update(**values)


def _resume(run: TrainRun) -> None:
    """Have the train wait again: from its newest whole checkpoint, or from the beginning where
    there is none. Raises UserError."""
    try:
        train_resume(run=run, by=owner_of(run))
    except UserError as refusal:
        if "step" not in refusal.fields:
            text = f"Train #{run.pk} cannot continue: {refusal.message}"
            raise UserError(text, code=refusal.code, status=refusal.status) from refusal

        train_resume(run=run, by=owner_of(run), step=0)


def sweep_delete(*, sweep: Sweep, by: User) -> None:
    """Forget a sweep that neither runs nor is paused. Its trains stay. Raises UserError."""
    deletion_check(sweep, by)
    ended = Sweep.objects.filter(pk=sweep.pk).exclude(status__in=Sweep.ACTIVE)
    deleted, _ = ended.delete()
    if not deleted:
        raise UserError("This sweep runs. Stop it first.", code="wrong_state")


def sweep_follow(row: Any, earlier: User | None, owner: User) -> None:
    """The trains of a sweep change hands with it, as far as they belonged to its `earlier`
    owner."""
    if not isinstance(row, Sweep):
        return

    for trial in row.trials.exclude(run=None).select_related("run"):
        assert trial.run is not None
        runs = TrainRun.objects.filter(pk=trial.run.pk, owner=earlier)
        if runs.update(owner=owner, idempotency_key=None):
            jobs_follow(trial.run, earlier, owner)

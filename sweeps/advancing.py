"""How a sweep goes on: what became of its trains, which are worth no more steps, and the next ones.

Everything follows from what the database says, so that a sweep is asked again and again (every few
seconds, by the housekeeping) and whoever is killed in the middle leaves nothing half done: each
step is one transaction. The sweep's row is locked meanwhile, so that no combination is chosen
twice."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, transaction
from django.db.models import F, Q
from django.utils import timezone

from core.errors import UserError
from core.templatetags.display import ordinal
from core.text import counted
from jobs.devices.presence import worker_state
from jobs.models import Machine
from methods.services import value_obstacle
from sweeps.models import Sweep, Trial
from sweeps.notices import sweep_notify
from sweeps.progress import (
    may_have_news,
    past_of,
    scale_of,
    sweep_fields,
    sweep_plan,
    sweep_space,
    trial_points,
    trial_seconds,
)
from sweeps.ranking import hours_text, number, tried
from sweeps.services import owner_of, trials_halt
from sweeps.study import Decision, Plan, importance_ask, prune_ask, values_ask
from training.models import TrainRun
from training.train.metrics import metric_result, metric_title
from training.train.services import train_create, train_stop
from training.work.queue import may_manage_queue

logger = logging.getLogger("deepextension.sweeps")

Status = Sweep.Status
State = Trial.State
RunStatus = TrainRun.Status

# So many failures in a row are no accident of one combination.
MOST_FAILURES = 3
# So many combinations in a row that no train can have: the others are no better.
MOST_REFUSALS = 10
HOUR_SECONDS = 3600
# In one round; the rest comes with the next.
MOST_STEPS = 500
# What a start refuses for its values and for the devices that are there, though it is no setting.
OF_DEVICES = "memory"
# Settings that no value of another one makes wrong: what they name is gone.
NEVER_BY_VALUES = frozenset({"rewards", "devices"})
# A machine that restarts is waited for; one that is away for longer does not hold up a sweep.
AWAY_AT_MOST = timedelta(hours=1)


def sweeps_advance() -> None:
    """Let every sweep go on as far as it can. What goes wrong with one does not hold up others."""
    unfinished = Q(status__in=Sweep.ACTIVE) | Q(trials__state=State.OPEN)
    found = Sweep.objects.filter(unfinished | _came_later())
    for pk in found.order_by("pk").values_list("pk", flat=True).distinct():
        try:
            sweep_advance(pk)
        except DatabaseError:
            raise
        except Exception:
            logger.exception("sweep %s could not go on", pk)


def _came_later() -> Q:
    """Sweeps whose result is not taken yet of a train that a person resumed after its trial had
    ended."""
    trial_ended = Q(trials__state__in=(State.PRUNED, State.STOPPED)) | Q(
        trials__state=State.FAILED, trials__run__finished_at__gt=F("trials__ended_at")
    )
    return trial_ended & Q(trials__run__status=RunStatus.FINISHED, trials__run__owner=F("owner"))


def sweep_advance(pk: int) -> None:
    """Let a sweep go on as far as it can. May be repeated, interrupted anywhere and called twice at
    the same time."""
    goes_on = True
    for _ in range(MOST_STEPS):
        if not goes_on:
            return

        with transaction.atomic():
            sweep = Sweep.objects.select_for_update(of=("self",)).filter(pk=pk).first()
            goes_on = sweep is not None and _step(sweep)


def _step(sweep: Sweep) -> bool:
    """Do the next thing. Returns whether there may be more to do at once."""
    trials = list(sweep.trials.select_related("run__method", "run__owner"))
    if _results_take(sweep, trials):
        return True
    if not sweep.is_active:
        return False

    try:
        if _losers_prune(sweep, trials):
            return True
        if reason := _failures_text(sweep, trials):
            return sweep_halt(sweep, trials, reason)

        return sweep.status == Status.RUNNING and _go_on(sweep, trials)
    except UserError as refusal:
        # Its method has changed: it no longer has what the sweep changes.
        return sweep_halt(sweep, trials, f"It cannot continue: {refusal.message}")


# Results


def _results_take(sweep: Sweep, trials: Sequence[Trial]) -> bool:
    """Record what became of trains that have ended, or were resumed by a person. Returns whether
    there was any."""
    changed = [trial for trial in trials if trial.began_at is not None and _took(sweep, trial)]
    if any(trial.state == State.COMPLETE for trial in changed):
        _importance_take(sweep)

    return bool(changed)


def _took(sweep: Sweep, trial: Trial) -> bool:
    run = trial.run
    if run is None:
        return trial.state == State.OPEN and _end(trial, State.STOPPED, "Its train was deleted.")

    if run.owner_id != sweep.owner_id:
        reason = "Its train belongs to somebody else now."
        return trial.state == State.OPEN and _end(trial, State.STOPPED, reason)
    if trial.state == State.OPEN:
        return run.ended and _result_take(sweep, trial, run)

    if trial.state == State.COMPLETE:
        return False
    if run.status == RunStatus.FINISHED:
        # It had finished before its stop, or a person has resumed it.
        return _is_new_end(trial, run) and _result_take(sweep, trial, run)

    is_resumed = run.status in (RunStatus.QUEUED, RunStatus.RUNNING)
    return is_resumed and sweep.is_active and _open_again(trial)


def _is_new_end(trial: Trial, run: TrainRun) -> bool:
    """Whether a train that has finished did so after its trial had failed: it was resumed."""
    if trial.state != State.FAILED or trial.ended_at is None or run.finished_at is None:
        return trial.state != State.FAILED

    return run.finished_at > trial.ended_at


def _open_again(trial: Trial) -> bool:
    """A person resumed its train, which is not pruned a second time."""
    return _write(trial, state=State.OPEN, reason="", ended_at=None, is_resumed=True)


def _result_take(sweep: Sweep, trial: Trial, run: TrainRun) -> bool:
    if run.status == RunStatus.STOPPED:
        return _end(trial, State.STOPPED, "", sweep)
    if run.status == RunStatus.FAILED:
        return _end(trial, State.FAILED, run.error or "It failed.", sweep)

    value = metric_result(run, sweep.metric)
    if value is None:
        title = metric_title(sweep.metric)
        return _end(trial, State.FAILED, f"It reported no {title}.", sweep)

    return _end(trial, State.COMPLETE, "", sweep, value=value)


def _end(
    trial: Trial, state: State, reason: str, sweep: Sweep | None = None, **values: Any
) -> bool:
    """Write how a trial ended, with what is needed of its train when that is deleted."""
    if sweep is not None and trial.run is not None:
        values |= {
            "reports": trial_points(trial, sweep.metric) or trial.reports,
            "total_steps": trial.run.total_steps,
            "seconds": trial_seconds(trial),
        }

    return _write(trial, state=state, reason=reason, ended_at=timezone.now(), **values)


def _write(trial: Trial, **values: Any) -> bool:
    Trial.objects.filter(pk=trial.pk).update(**values)
    for name, value in values.items():
        setattr(trial, name, value)

    return True


def _importance_take(sweep: Sweep) -> None:
    trials = list(sweep.trials.select_related("run"))
    try:
        shares = importance_ask(sweep_plan(sweep), past_of(sweep, trials))
    except UserError:
        return

    Sweep.objects.filter(pk=sweep.pk).update(importance=shares)


# Pruning


def _losers_prune(sweep: Sweep, trials: Sequence[Trial]) -> bool:
    """Ask the pruner about every report that is new. Returns whether a train was stopped."""
    if sweep.pruner == Sweep.Pruner.NONE:
        return False

    for index, trial in enumerate(trials):
        run = trial.run
        if trial.state != State.OPEN or trial.is_resumed or run is None:
            continue
        if run.status == RunStatus.RUNNING and _is_pruned(sweep, trials, index, run):
            return True

    return False


def _is_pruned(sweep: Sweep, trials: Sequence[Trial], index: int, run: TrainRun) -> bool:
    trial = trials[index]
    if not may_have_news(trial, sweep.metric):
        return False

    points = trial_points(trial, sweep.metric)
    new = [step for step, _ in points if step > trial.judged_step]
    if not new:
        return False

    plan = sweep_plan(sweep)
    scale = scale_of(sweep, trials)
    past = past_of(sweep, trials)
    for step in new:
        decision = prune_ask(plan, past, index, scale.place(step, run.total_steps))
        # What the pruner left on this trial counts for the next question.
        past[index] = replace(past[index], marks=decision.marks)
        _write(trial, judged_step=step, marks=decision.marks)
        if decision.is_pruned:
            until_now = [value for at, value in points if at <= step]
            reason = _pruned_text(sweep, plan, step, until_now, decision)
            _prune(sweep, trial, run, reason)
            return True

    return False


def _pruned_text(
    sweep: Sweep, plan: Plan, step: int, values: Sequence[float], decision: Decision
) -> str:
    """Pruned: at step 40 its eval loss 2.31 was above the median 1.9 of 5 trains."""
    value = values[-1]
    best = ""
    if sweep.pruner != Sweep.Pruner.HALVING:
        # A median is compared with the best value so far.
        value = max(values) if plan.maximize else min(values)
        best = "best " if value != values[-1] else ""

    title = metric_title(sweep.metric)
    text = f"Pruned: at step {step:,} its {best}{title} {number(value)}"
    if decision.bound is None:
        return f"{text} was not good enough."

    bound = number(decision.bound)
    of = counted(decision.others, "train")
    if sweep.pruner == Sweep.Pruner.HALVING:
        return (
            f"{text} was not among the best third of {of} that came so far, which ends at {bound}."
        )

    side = "below" if plan.maximize else "above"
    if sweep.pruner == Sweep.Pruner.MEDIAN:
        return f"{text} was {side} the median {bound} of {of}."

    percentile = ordinal(100 - sweep.percentile if plan.maximize else sweep.percentile)
    return f"{text} was {side} the {percentile} percentile, {bound}, of {of}."


def _prune(sweep: Sweep, trial: Trial, run: TrainRun, reason: str) -> None:
    """The ordinary stop, which saves what was learned."""
    _end(trial, State.PRUNED, reason, sweep)
    train_stop(run=run, by=owner_of(run))
    logger.info("sweep %s, train %s: %s", sweep.pk, run.pk, reason)


# The end


def _failures_text(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """Why a sweep stops whose last trains have all failed, or nothing. A combination that was
    refused, so that there was no train, is no failure of one: the next ones often share the value
    for which it was."""
    counting = (State.COMPLETE, State.PRUNED, State.FAILED)
    since = sweep.failures_from or sweep.created_at
    ended = [
        (trial.ended_at, trial.number, trial)
        for trial in trials
        if trial.state in counting and trial.ended_at is not None and trial.ended_at > since
    ]
    in_order = [trial for _, _, trial in sorted(ended)]
    refused = in_order[-MOST_REFUSALS:]
    if len(refused) == MOST_REFUSALS and all(trial.is_refused for trial in refused):
        reason = refused[-1].reason
        return f"{MOST_REFUSALS} combinations in a row cannot be trained. The last one: {reason}"

    last = [trial for trial in in_order if not trial.is_refused][-MOST_FAILURES:]
    if len(last) < MOST_FAILURES or any(trial.state != State.FAILED for trial in last):
        return ""

    newest = last[-1]
    which = f"#{newest.run_id}" if newest.run_id else f"number {newest.number}"
    return f"{MOST_FAILURES} trains in a row have failed. The last one, {which}: {newest.reason}"


def sweep_halt(sweep: Sweep, trials: Iterable[Trial], reason: str) -> bool:
    """It waits for a person now, who can let it go on. Call it under the sweep's lock."""
    if sweep.transition(Status.STOPPED, reason=reason):
        logger.info("sweep %s has stopped: %s", sweep.pk, reason)
        trials_halt(sweep, [trial for trial in trials if trial.state == State.OPEN])
        sweep_notify(sweep)

    # Those that waited have ended with that.
    return True


def _finish(sweep: Sweep, trials: Sequence[Trial], reason: str) -> bool:
    """No further train is to come, and none is under way. Without a result it has not succeeded."""
    if any(trial.state == State.COMPLETE for trial in trials):
        return _succeed(sweep, reason)

    failed = [trial for trial in trials if trial.state == State.FAILED]
    last = f" The last one that failed: {failed[-1].reason}" if failed else ""
    return sweep_halt(sweep, trials, f"{reason} None has succeeded.{last}")


def _succeed(sweep: Sweep, reason: str) -> bool:
    if sweep.transition(Status.SUCCEEDED, reason=reason):
        logger.info("sweep %s has ended: %s", sweep.pk, reason)
        sweep_notify(sweep)

    return False


# The next train


def _go_on(sweep: Sweep, trials: Sequence[Trial]) -> bool:
    """Start the train of a combination that was chosen, or choose the next."""
    running = [trial for trial in trials if trial.state == State.OPEN]
    if _hours_are_spent(sweep, trials):
        reason = f"Its budget of {hours_text(sweep.budget_hours or 0)} is used up."
        return _withdraw(running) or (not running and _finish(sweep, trials, reason))

    chosen = [trial for trial in running if trial.began_at is None]
    if chosen:
        return _begin(sweep, trials, chosen[0])
    if len(tried(trials)) >= sweep.budget_trains:
        return not running and _finish(sweep, trials, _used_up_text(sweep))

    if len(running) >= _ahead(sweep):
        return False
    if trials and worker_state().device is None:
        # What a train may ask for depends on its device, and nobody is there to ask.
        return False

    plan = sweep_plan(sweep)
    values = values_ask(plan, past_of(sweep, trials))
    if values is None:
        is_all = plan.space.product is not None
        reason = "Every combination was tried." if is_all else "No other combination was found."
        return not running and _finish(sweep, trials, reason)

    # Not their count: one in the middle may have been forgotten by a stop.
    number = max((trial.number for trial in trials), default=0) + 1
    Trial.objects.create(sweep=sweep, number=number, values=values)
    return True


def _used_up_text(sweep: Sweep) -> str:
    """Why no further train follows where there are as many as there may be."""
    if sweep.budget_asked is not None and sweep.budget_asked <= sweep.budget_trains:
        return f"Its budget of {counted(sweep.budget_trains, 'train')} is used up."
    if sweep.search == Sweep.Search.GRID or sweep_space(sweep).count() == sweep.budget_trains:
        return "Every combination was tried."

    return f"A sweep makes at most {counted(sweep.budget_trains, 'train')}."


def _hours_are_spent(sweep: Sweep, trials: Sequence[Trial]) -> bool:
    if sweep.budget_hours is None:
        return False

    seconds = sum(trial_seconds(trial) for trial in trials)
    return seconds >= sweep.budget_hours * HOUR_SECONDS


def _withdraw(running: Sequence[Trial]) -> bool:
    """Take trains that have not begun out of the queue; those that run go on to their end. Returns
    whether there was any."""
    withdrawn = False
    for trial in running:
        run = trial.run
        if trial.began_at is None:
            reason = "The budget was used up before it began."
            withdrawn = _end(trial, State.STOPPED, reason)
        elif run is not None and run.status == RunStatus.QUEUED and run.first_started_at is None:
            train_stop(run=run, by=owner_of(run))
            withdrawn = True

    return withdrawn


def _ahead(sweep: Sweep) -> int:
    """How many of its trains may wait or run at once. A search that learns chooses with every
    result that there can be; the others have one more ready, so that no device waits for the
    housekeeping."""
    workers = max(1, worker_state().workers)
    return workers if sweep.search == Sweep.Search.TPE else workers + 1


def _begin(sweep: Sweep, trials: Sequence[Trial], trial: Trial) -> bool:
    """Queue the train of a combination. One that no train can have has failed; where it is not the
    combination that is refused, the sweep stops."""
    try:
        run, _ = train_create(**_train_values(sweep, trial))
    except UserError as refusal:
        if OF_DEVICES in refusal.fields and _machines_are_away():
            return _wait(trial, f"It waits for a machine that is away. {refusal.message}")
        if _is_about_values(sweep, trial, refusal):
            return _end(trial, State.FAILED, refusal.message) and _write(
                trial, began_at=timezone.now()
            )

        reason = f"Train {trial.number} cannot start: {refusal.message}"
        return sweep_halt(sweep, trials, reason)

    return _write(trial, run=run, began_at=timezone.now(), reason="")


def _is_about_values(sweep: Sweep, trial: Trial, refusal: UserError) -> bool:
    """Whether it is this combination that is refused: by a value of its own, for memory, or by a
    rule that names another setting because of one. All others would be refused like it for what
    they share: a reward model that is no longer shared, or a value that the method has no more."""
    if not refusal.fields:
        return False

    fields = sweep_fields(sweep)
    shared = sweep.shared_parameters
    for name in refusal.fields:
        if name in trial.values or name == OF_DEVICES:
            continue
        if name not in fields or name in NEVER_BY_VALUES:
            return False
        if name in shared and value_obstacle(fields[name], shared[name]):
            return False

    return True


def _machines_are_away() -> bool:
    """Whether a machine that was there a while ago has no worker now: what does not fit the others
    may fit that one."""
    # Where each worker was shown one device alone, a slot is known by its devices, too.
    here = {(machine.host, machine.slot.split("/")[0]) for machine in worker_state().machines}
    known = Machine.objects.filter(seen_at__gt=timezone.now() - AWAY_AT_MOST)
    return any(
        (host, slot.split("/")[0]) not in here for host, slot in known.values_list("host", "slot")
    )


def _wait(trial: Trial, reason: str) -> bool:
    """The combination is kept for the next round."""
    if trial.reason != reason:
        _write(trial, reason=reason)

    return False


def _train_values(sweep: Sweep, trial: Trial) -> dict[str, Any]:
    """What training.train.services.train_create takes. Raises UserError for what is gone, or not the
    owner's to use any more."""
    owner = sweep.owner
    if owner is None:
        raise UserError("The sweep belongs to nobody.")
    if sweep.method is None:
        raise UserError("Its method was deleted.")
    if sweep.method_version not in (None, sweep.method.version):
        raise UserError(
            f"{sweep.method.name} was changed: its trains are of version {sweep.method_version}, and "
            f"it is at version {sweep.method.version} now. Copy the sweep to try that one."
        )

    for row, word in (
        (sweep.base_model, "base model"),
        (sweep.dataset, "dataset"),
        (sweep.evaluation_dataset, "evaluation dataset"),
    ):
        if row is None and word == "evaluation dataset" and not sweep.has_evaluation_dataset:
            continue
        if row is None:
            raise UserError(f"Its {word} was deleted.")
        if not type(row).objects.visible_to(owner).filter(pk=row.pk).exists():
            raise UserError(f"Its {word} is no longer shared. Share it again, then continue.")

    priority = sweep.priority
    if not may_manage_queue(owner):
        # It may have been handed over to somebody who cannot give a high one.
        priority = min(priority, TrainRun.Priority.NORMAL)

    return {
        "owner": owner,
        "name": f"{sweep.name} {trial.number}",
        "method": sweep.method,
        "base_model": sweep.base_model,
        "dataset": sweep.dataset,
        "evaluation_dataset": sweep.evaluation_dataset,
        "parameters": sweep.shared_parameters | trial.values,
        "system_prompt": sweep.system_prompt,
        "notes": sweep.notes,
        "labels": sweep.labels,
        "priority": priority,
        "starts_after": sweep.starts_after,
        "continue_adapter": sweep.continue_adapter,
        "launcher": sweep.launcher,
        # For whom it is handed over to, perhaps not.
        "start_anyway": sweep.start_anyway and may_manage_queue(owner),
    }

"""How a chain goes on: the next train, the gate behind it, the model that is made of it.

Everything follows from what the database says of the newest stage that has begun, so that a chain
is asked again and again (every few seconds, by the housekeeping, and after whatever a person does)
and whoever is killed in the middle leaves nothing half done. The chain's row is locked meanwhile:
no stage begins twice."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import User
from django.db import DatabaseError, transaction
from django.utils import timezone

from chains.gates import gate_measure, gate_words, measured_words
from chains.models import Chain, Stage
from chains.notices import chain_notify
from core.errors import UserError
from jobs.devices.presence import worker_state
from jobs.queue import places_exchange
from models_app.models import BaseModel
from training.models import TrainRun
from training.train.merging import train_merge
from training.train.services import train_create
from training.work.queue import NO_LONGER_WAITING, may_manage_queue, waiting

logger = logging.getLogger("deepextension.chains")

Status = Chain.Status
RunStatus = TrainRun.Status
ModelStatus = BaseModel.Status


def chains_advance() -> None:
    """Let every chain go on as far as it can. What goes wrong with one does not hold up others."""
    for pk in Chain.objects.running().order_by("pk").values_list("pk", flat=True):
        try:
            chain_advance(pk)
        except DatabaseError:
            raise
        except Exception:
            logger.exception("chain %s could not go on", pk)


def chain_advance(pk: int) -> None:
    """Let a chain go on as far as it can; one that does not run stays as it is. May be repeated,
    interrupted anywhere and called twice at the same time."""
    goes_on = True
    while goes_on:
        with transaction.atomic():
            chain = Chain.objects.select_for_update(of=("self",)).filter(pk=pk).first()
            goes_on = chain is not None and chain.status == Status.RUNNING and _step(chain)


def _step(chain: Chain) -> bool:
    """Do the next thing. Returns whether there may be more to do at once."""
    stages = list(chain.stages.select_related("run__method", "model"))
    begun = [stage for stage in stages if stage.has_begun]
    following = stages[len(begun)] if len(begun) < len(stages) else None

    if not begun:
        return following is not None and _begin(chain, following)

    stage = begun[-1]
    if stage.run is not None and not stage.run.ended:
        return False
    if obstacle := _train_obstacle(chain, stage):
        return chain_stop(chain, obstacle)
    if following is None:
        return chain_succeed(chain)
    if stage.passed is None:
        return _measure(stage)
    if not stage.passed and not stage.gate_waived:
        return chain_stop(chain, _gate_reason(stage, following))
    if stage.model is None:
        return _merge(chain, stage)
    if stage.model.status == ModelStatus.IMPORTING:
        return False
    if obstacle := model_obstacle(stage):
        return chain_stop(chain, obstacle)
    if worker_state().device is None:
        # What a train may ask for depends on its device, and nobody is there to ask.
        return False

    return _begin(chain, following, stage.model)


# The train


def _train_obstacle(chain: Chain, stage: Stage) -> str:
    """Why the chain cannot go on from the train of `stage`, or nothing."""
    run = stage.run
    name = f"Stage {stage.position}"
    if run is None:
        return f"{name}: its train was deleted."
    if run.owner_id != chain.owner_id:
        return f"{name}: its train, #{run.pk}, belongs to somebody else now."
    if run.status == RunStatus.STOPPED:
        return f"{name}: its train, #{run.pk}, was stopped."
    if run.status == RunStatus.FAILED:
        return f"{name}: its train, #{run.pk}, failed. {run.error}".strip()

    return ""


def _begin(chain: Chain, stage: Stage, model: BaseModel | None = None) -> bool:
    """Start the train of a stage, the first one on its base model, others on `model`."""
    try:
        values = train_values(chain, stage, model)
        run, _ = train_create(**values, priority=trains_priority(chain))
    except UserError as refusal:
        return chain_stop(chain, _start_reason(stage, refusal))

    _take_place(chain, run)
    _write(stage, run=run, began_at=timezone.now())
    return False


def trains_priority(chain: Chain) -> int:
    """Of a chain's trains: a chain of high priority may have been handed over to somebody who
    cannot give that."""
    if may_manage_queue(chain.owner):
        return chain.priority

    return min(chain.priority, TrainRun.Priority.NORMAL)


def _start_reason(stage: Stage, refusal: UserError) -> str:
    """An ordered stage is not changed any more: what it needs has to come back."""
    reason = f"Stage {stage.position} cannot start: {refusal.message}"
    if set(refusal.fields) <= set(WORDS):
        reason += " Share or restore it, then continue; or copy the chain."

    return reason


def train_values(chain: Chain, stage: Stage, model: BaseModel | None = None) -> dict[str, Any]:
    """What training.train.services.train_create takes of a stage. `model`: what the stage before it
    made. Raises UserError by field for what is gone, or not the owner's to use any more."""
    owner = chain.owner
    base_model = model or stage.base_model
    if owner is None:
        raise UserError("The chain belongs to nobody.")
    if stage.method is None:
        raise UserError({"method": ["Its method was deleted. Choose another."]})

    _visible_check(
        owner,
        chain,
        base_model=base_model,
        dataset=stage.dataset,
        evaluation_dataset=stage.evaluation_dataset,
    )
    assert base_model is not None
    assert stage.dataset is not None

    return {
        "owner": owner,
        "name": stage.name,
        "method": stage.method,
        "base_model": base_model,
        "dataset": stage.dataset,
        "evaluation_dataset": stage.evaluation_dataset,
        "parameters": stage.parameters,
        "system_prompt": stage.system_prompt,
        "notes": stage.notes,
        "labels": stage.labels,
        "starts_after": chain.starts_after if stage.position == 1 else None,
        "continue_adapter": stage.start == Stage.Start.ADAPTER,
        "launcher": stage.launcher,
    }


WORDS = {"base_model": "base model", "dataset": "dataset", "evaluation_dataset": "dataset"}


def _visible_check(owner: User, chain: Chain, **rows: Any) -> None:
    """Raises UserError by field for rows that are gone, or that `owner` cannot see any more."""
    is_draft = chain.status == Status.DRAFT
    remedy = " Choose another." if is_draft else ""
    errors: dict[str, list[str]] = {}
    for name, row in rows.items():
        if row is None and name == "evaluation_dataset":
            continue

        if row is None and is_draft:
            errors[name] = [f"Choose a {WORDS[name]}: there is none, or it was deleted."]
        elif row is None:
            errors[""] = [f"Its {WORDS[name]} was deleted. Copy the chain and choose another."]
        elif not type(row).objects.visible_to(owner).filter(pk=row.pk).exists():
            errors[name] = [f"This {WORDS[name]} is no longer shared.{remedy}"]

    if errors:
        raise UserError(errors)


def _take_place(chain: Chain, run: TrainRun) -> None:
    """Among the trains of its owner a stage goes before those that were started after the chain was
    ordered. Trains of others keep their places."""
    trains = list(waiting().filter(priority=run.priority, owner=run.owner_id))
    before = trains[: [train.pk for train in trains].index(run.pk)]
    while before and before.pop().created_at > (chain.ordered_at or chain.created_at):
        own = list(waiting().filter(priority=run.priority, owner=run.owner_id))
        places_exchange(own, run, "up", no_longer_waiting=NO_LONGER_WAITING)


# The gate


def _measure(stage: Stage) -> bool:
    assert stage.run is not None
    found = gate_measure(stage, stage.run)
    _write(stage, passed=found.passed, measured=found.value, measured_before=found.before)
    return True


def _gate_reason(stage: Stage, following: Stage) -> str:
    return (
        f"The gate behind stage {stage.position} is closed: stage {following.position} starts if "
        f"{gate_words(stage)}, but {measured_words(stage, stage.method)}."
    )


# The model


def model_of(run: TrainRun) -> BaseModel | None:
    """The model that was made of a train's result, by its chain or by a person; None where there is
    none yet."""
    made = BaseModel.objects.filter(
        source=BaseModel.Source.TRAIN,
        owner=run.owner_id,
        archived_at=None,
        trained_from__train=run.pk,
        trained_from__step=0,
    )
    return made.exclude(status=ModelStatus.FAILED).first() or made.first()


def _merge(chain: Chain, stage: Stage) -> bool:
    """Have the model made that the next stage starts from."""
    assert stage.run is not None
    assert chain.owner is not None
    try:
        model = model_of(stage.run) or _merge_named(chain, stage, stage.run, chain.owner)
    except UserError as refusal:
        reason = f"Stage {stage.position}: no model can be made from its train. {refusal.message}"
        return chain_stop(chain, reason)

    _write(stage, model=model)
    return True


def _merge_named(chain: Chain, stage: Stage, run: TrainRun, owner: User) -> BaseModel:
    """Named after the chain, or after the train where that name is taken."""
    name = f"{chain.name[:100]}, stage {stage.position}"
    try:
        return train_merge(run=run, by=owner, name=name)
    except UserError as refusal:
        if "name" not in refusal.fields:
            raise

    return train_merge(run=run, by=owner)


def model_obstacle(stage: Stage) -> str:
    """Why the next stage cannot start from the model that was made, or nothing."""
    model = stage.model
    assert model is not None
    name = f"Stage {stage.position}"
    if model.status == ModelStatus.FAILED:
        return f"{name}: its model could not be made. {model.error}".strip()
    if model.proof_state == "failed" and not stage.proof_waived:
        return (
            f"{name}: the model that was made from its train is not the model that was trained. See "
            "its proof."
        )

    return ""


# The chain


def chain_stop(chain: Chain, reason: str) -> bool:
    """It waits for a person now, who can let it go on."""
    if chain.transition(Status.STOPPED, reason=reason):
        logger.info("chain %s has stopped: %s", chain.pk, reason)
        chain_notify(chain)

    return False


def chain_succeed(chain: Chain) -> bool:
    if chain.transition(Status.SUCCEEDED, reason=""):
        chain_notify(chain)

    return False


def _write(stage: Stage, **values: Any) -> None:
    Stage.objects.filter(pk=stage.pk).update(**values)
    for name, value in values.items():
        setattr(stage, name, value)


def last_run(stages: Iterable[Stage]) -> TrainRun | None:
    """The newest train of a chain."""
    runs = [stage.run for stage in stages if stage.run is not None]
    return runs[-1] if runs else None

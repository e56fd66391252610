"""Everything that changes a chain. Pages, API and admin call these."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from chains.advancing import chain_advance, model_obstacle
from chains.checking import chain_check, gate_clean
from chains.models import Chain, Stage
from core.errors import UserError
from core.ownership import deletion_check, owner_check
from core.text import clean_label, clean_text
from jobs.services import jobs_follow
from models_app.models import BaseModel
from models_app.services import model_retry
from training.models import TrainRun
from training.train.services import train_stop
from training.work.queue import priority_check

Status = Chain.Status

# What is asked of a stage; the rest is what became of it.
ASKED = (
    "name",
    "method",
    "base_model",
    "dataset",
    "evaluation_dataset",
    "parameters",
    "system_prompt",
    "notes",
    "labels",
    "launcher",
    "start",
    "gate",
    "gate_metric",
    "gate_value",
)
NOT_A_DRAFT = "This chain has already been started. Copy it to change it."


# Drafts


def chain_create(
    *,
    owner: User,
    stages: Sequence[Stage],
    name: str = "",
    priority: int = TrainRun.Priority.NORMAL,
    starts_after: TrainRun | None = None,
    idempotency_key: str | None = None,
) -> Chain:
    """A draft with these stages, which are new rows. Raises UserError by field, and IntegrityError
    where the owner has a chain of that idempotency key (Chain.of_key)."""
    priority_check(priority, owner)
    chain = Chain(
        owner=owner,
        name=clean_label(name, limit=120) or _name_of(stages),
        priority=priority,
        starts_after=starts_after,
        idempotency_key=idempotency_key or None,
    )

    with transaction.atomic():
        chain.save()
        for position, stage in enumerate(stages, start=1):
            stage.chain = chain
            stage.position = position
            with _named_by_stage(position):
                _clean(stage)

            stage.save()

    return chain


@contextmanager
def _named_by_stage(position: int) -> Iterator[None]:
    """Name the fields of a refusal as those of a stage among others."""
    try:
        yield
    except UserError as refusal:
        fields = {
            f"stages.{position - 1}.{name}": [f"Stage {position}: {text}" for text in texts]
            for name, texts in refusal.fields.items()
        }
        raise UserError(fields, code=refusal.code, status=refusal.status) from refusal


def _name_of(stages: Sequence[Stage]) -> str:
    """support-lora, dpo: what its stages do, where nobody gave it a name."""
    methods = [stage.method.slug for stage in stages if stage.method is not None]
    dataset = stages[0].dataset if stages else None
    parts = [dataset.slug] if dataset is not None else []
    return "-".join([*parts, *methods])[:120] or "chain"


def _clean(stage: Stage) -> None:
    stage.name = clean_label(stage.name, limit=120)
    stage.system_prompt = clean_text(stage.system_prompt)
    stage.notes = clean_text(stage.notes)
    stage.gate_metric = clean_label(stage.gate_metric, limit=80)
    gate_clean(stage)
    if stage.gate_value is not None and not math.isfinite(stage.gate_value):
        raise UserError({"gate_value": ["Give a number."]})

    if stage.position > 1:
        stage.base_model = None


def chain_rename(*, chain: Chain, by: User, name: str) -> Chain:
    """Raises UserError where the name is blank."""
    owner_check(chain, by)
    name = clean_label(name, limit=120)
    if not name:
        raise UserError({"name": ["Give the chain a name."]})

    Chain.objects.filter(pk=chain.pk).update(name=name)
    chain.name = name
    return chain


def stage_put(*, chain: Chain, by: User, stage: Stage, position: int | None = None) -> Stage:
    """Add a stage to a draft, or put it in place of the one at `position`, whose gate and notes
    stay. Raises UserError where the chain is no draft, or has no such stage."""
    with _draft(chain, by) as stages:
        if position is None:
            stage.position = len(stages) + 1
        else:
            before = _stage_at(stages, position)
            stage.pk = before.pk
            stage.position = position
            for name in ("gate", "gate_metric", "gate_value", "notes"):
                setattr(stage, name, getattr(before, name))

        stage.chain = chain
        _clean(stage)
        stage.save()

    return stage


def gate_set(
    *,
    chain: Chain,
    by: User,
    position: int,
    gate: str,
    gate_metric: str = "",
    gate_value: float | None = None,
) -> None:
    """Set the gate behind a draft's stage. Raises UserError."""
    with _draft(chain, by) as stages:
        stage = _stage_at(stages, position)
        _choice_check("gate", gate, Stage.Gate.values)

        stage.gate = gate
        stage.gate_metric = gate_metric
        stage.gate_value = gate_value
        _clean(stage)
        stage.save(update_fields=["gate", "gate_metric", "gate_value"])


def _choice_check(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError({name: [f"Give one of {', '.join(choices)}."]})


def stage_remove(*, chain: Chain, by: User, position: int) -> None:
    """Take a stage out of a draft. Raises UserError."""
    with _draft(chain, by) as stages:
        stage = _stage_at(stages, position)
        if len(stages) == 1:
            raise UserError("This is its only stage. Delete the chain instead.", code="wrong_state")

        stages.remove(stage)
        if position == 1:
            _put_first(stages[0], stage.base_model)

        stage.delete()
        _number(stages)


def stage_move(*, chain: Chain, by: User, position: int, to: str) -> None:
    """Move a stage of a draft one place: "up" (sooner) or "down". The base model stays that of the
    first place. Raises UserError."""
    with _draft(chain, by) as stages:
        stage = _stage_at(stages, position)
        _choice_check("to", to, ("up", "down"))
        first = stages[0]
        base_model = first.base_model
        index = position - 1
        target = max(0, index - 1) if to == "up" else min(len(stages) - 1, index + 1)

        stages.insert(target, stages.pop(stages.index(stage)))
        if stages[0] is not first:
            _put_first(stages[0], base_model)

        _number(stages)


def _put_first(stage: Stage, base_model: BaseModel | None) -> None:
    """It starts from the base model now, which may have no adapter to carry on."""
    stage.base_model = base_model
    stage.start = Stage.Start.MERGED


def _number(stages: Sequence[Stage]) -> None:
    for position, stage in enumerate(stages, start=1):
        stage.position = position
        _clean(stage)
        stage.save(update_fields=["position", "base_model", "start"])


@contextmanager
def _draft(chain: Chain, by: User) -> Iterator[list[Stage]]:
    """The stages of a draft in order, locked until the end. Raises PermissionDenied, and UserError
    where it is no draft any more."""
    owner_check(chain, by)
    with transaction.atomic():
        locked = Chain.objects.select_for_update(of=("self",)).get(pk=chain.pk)
        if locked.status != Status.DRAFT:
            raise UserError(NOT_A_DRAFT, code="wrong_state")

        yield list(locked.stages.all())


def _stage_at(stages: Sequence[Stage], position: int) -> Stage:
    if not 1 <= position <= len(stages):
        raise UserError(f"This chain has no stage {position}.", code="wrong_state")

    return stages[position - 1]


def chain_copy(*, chain: Chain, by: User, name: str = "") -> Chain:
    """A draft of one's own with the same stages."""
    stages = [
        Stage(**{field: getattr(stage, field) for field in ASKED}) for stage in chain.stages.all()
    ]
    priority = min(chain.priority, TrainRun.Priority.NORMAL)
    return chain_create(
        owner=by, stages=stages, name=name or f"{chain.name[:115]}-copy", priority=priority
    )


# Orders


def chain_order(*, chain: Chain, by: User) -> Chain:
    """Run a draft: its first train joins the queue. Raises UserError by stage and field."""
    owner_check(chain, by)
    if chain.status != Status.DRAFT:
        raise UserError(NOT_A_DRAFT, code="wrong_state")

    chain_check(chain, list(chain.stages.select_related("method", "base_model", "dataset")))
    if not chain.transition(Status.RUNNING, ordered_at=timezone.now()):
        raise UserError(NOT_A_DRAFT, code="wrong_state")

    return _advanced(chain)


def chain_cancel(*, chain: Chain, by: User) -> Chain:
    """No further stage starts, and its train that waits or runs is stopped. One that has ended
    stays as it is. Raises UserError for a draft."""
    owner_check(chain, by)
    with transaction.atomic():
        # Nobody begins a stage meanwhile.
        Chain.objects.select_for_update(of=("self",)).get(pk=chain.pk)
        chain.refresh_from_db()
        if chain.status == Status.DRAFT:
            raise UserError("This chain is a draft. Delete it instead.", code="wrong_state")

        if not chain.ended:
            chain.transition(Status.CANCELLED)

        for stage in chain.stages.exclude(run=None).select_related("run"):
            run = stage.run
            if run is not None and not run.ended and run.owner_id == chain.owner_id:
                train_stop(run=run, by=by if by.pk == run.owner_id else _owner_of(run))

    return chain


def _owner_of(run: TrainRun) -> User:
    assert run.owner is not None
    return run.owner


def chain_go_on(*, chain: Chain, by: User, train: TrainRun | None = None) -> Chain:
    """Let a stopped chain go on from the stage where it stopped.

    Where its gate is closed, or the proof of its model failed, it goes on in spite of that. Where
    its train did not finish: with that train if somebody has resumed it, with `train`, a copy, or
    else with a new train of the same values. Where a stage could not begin, `train` is that stage.
    Raises UserError."""
    owner_check(chain, by)
    with transaction.atomic():
        chain = Chain.objects.select_for_update(of=("self",)).get(pk=chain.pk)
        if chain.status != Status.STOPPED:
            raise UserError("Only a chain that has stopped can continue.", code="wrong_state")

        stages = list(chain.stages.select_related("run", "model"))
        begun = [stage for stage in stages if stage.has_begun]
        if train is not None:
            _take_train(chain, _stage_to_fill(stages, begun), train)
        elif begun:
            _clear_way(chain, begun[-1])

        chain.transition(Status.RUNNING, reason="")

    return _advanced(chain)


def _stage_to_fill(stages: Sequence[Stage], begun: Sequence[Stage]) -> Stage:
    """The stage that a train is named for: the newest one, or the next where that is done and only
    the next could not begin."""
    is_done = not begun or _is_done(begun[-1])
    index = len(begun) if is_done and len(begun) < len(stages) else len(begun) - 1
    return stages[index]


def _is_done(stage: Stage) -> bool:
    """Whether the next stage may start from what this one made."""
    is_finished = stage.run is not None and stage.run.status == TrainRun.Status.FINISHED
    is_passed = bool(stage.passed) or stage.gate_waived
    model = stage.model
    is_ready = model is not None and model.status == BaseModel.Status.READY
    return is_finished and is_passed and is_ready and not model_obstacle(stage)


def _clear_way(chain: Chain, stage: Stage) -> None:
    """Take away what stopped a chain at `stage`."""
    run = stage.run
    if run is None or run.status in (TrainRun.Status.FAILED, TrainRun.Status.STOPPED):
        _forget(stage)
    elif run.owner_id != chain.owner_id:
        raise UserError(
            f"Its train, #{run.pk}, belongs to somebody else. Name a copy of it.",
            code="wrong_state",
        )
    elif stage.passed is False and not stage.gate_waived:
        Stage.objects.filter(pk=stage.pk).update(gate_waived=True)
    elif stage.model is not None:
        _clear_model(stage, stage.model)


def _clear_model(stage: Stage, model: BaseModel) -> None:
    if model.status == BaseModel.Status.FAILED:
        owner = model.owner
        assert owner is not None
        model_retry(model=model, by=owner)
    elif model.proof_state == "failed":
        Stage.objects.filter(pk=stage.pk).update(proof_waived=True)


def _take_train(chain: Chain, stage: Stage, train: TrainRun) -> None:
    """Put another train in place of the stage's own. Raises UserError {"train": …}."""
    if train.owner_id != chain.owner_id:
        raise UserError({"train": ["This train belongs to somebody else."]})
    if Stage.objects.filter(run=train).exclude(pk=stage.pk).exists():
        raise UserError({"train": ["This train is a stage of a chain already."]})
    if train.base_model_id != _base_of(chain, stage):
        raise UserError({"train": ["This train starts from another model than the stage does."]})

    _forget(stage)
    Stage.objects.filter(pk=stage.pk).update(run=train, began_at=timezone.now())


def _base_of(chain: Chain, stage: Stage) -> int | None:
    """The id of the model that a stage starts from."""
    if stage.position == 1:
        return stage.base_model_id

    return chain.stages.get(position=stage.position - 1).model_id


def _forget(stage: Stage) -> None:
    """As if it had not begun."""
    Stage.objects.filter(pk=stage.pk).update(
        began_at=None,
        run=None,
        model=None,
        measured=None,
        measured_before=None,
        passed=None,
        gate_waived=False,
        proof_waived=False,
    )


def _advanced(chain: Chain) -> Chain:
    chain_advance(chain.pk)
    chain.refresh_from_db()
    return chain


def chain_delete(*, chain: Chain, by: User) -> None:
    """Forget a chain that does not run. Its trains and models stay. Raises UserError while it
    runs."""
    deletion_check(chain, by)
    deleted, _ = Chain.objects.filter(pk=chain.pk).exclude(status=Status.RUNNING).delete()
    if not deleted:
        raise UserError("This chain runs. Cancel it first.", code="wrong_state")


def chain_follow(row: Any, earlier: User | None, owner: User) -> None:
    """The trains of a chain, and the models made between them, change hands with it, as far as they
    belonged to its `earlier` owner."""
    if not isinstance(row, Chain):
        return

    for stage in row.stages.select_related("run", "model"):
        if stage.run is not None:
            runs = TrainRun.objects.filter(pk=stage.run.pk, owner=earlier)
            if runs.update(owner=owner, idempotency_key=None):
                jobs_follow(stage.run, earlier, owner)

        if stage.model is not None:
            models = BaseModel.objects.filter(pk=stage.model.pk, owner=earlier)
            if models.update(owner=owner):
                jobs_follow(stage.model, earlier, owner)

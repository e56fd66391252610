"""Several trains at once: stop, label, delete. People see before what would happen to each train, and
after what did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied

from core.errors import UserError
from core.ownership import may_change
from training.models import TrainRun
from training.train.labels import labels_change, labels_clean
from training.train.needed import needed_text
from training.train.services import train_delete, train_stop

Status = TrainRun.Status
ACTIONS = ("stop", "label", "unlabel", "delete")
MOST_TRAINS = 200


@dataclass(frozen=True)
class BulkItem:
    """What an action does to one train, or, where not `ok`, why it does nothing."""

    id: int
    name: str
    ok: bool
    message: str


def bulk_plan(
    *, ids: list[int], by: User, action: str, labels: Iterable[str] = ()
) -> list[BulkItem]:
    """What `action` would do to each train, in the order of `ids`; nothing is changed.

    Raises UserError for an unknown action, too many trains, or invalid labels.
    """
    change = _request_check(ids, action, labels, by)
    runs = _visible(ids, by)
    return [_plan(pk, runs.get(pk), change) for pk in dict.fromkeys(ids)]


def bulk_apply(
    *, ids: list[int], by: User, action: str, labels: Iterable[str] = ()
) -> list[BulkItem]:
    """Do it. Where one train refuses, the others are changed all the same."""
    change = _request_check(ids, action, labels, by)
    runs = _visible(ids, by)
    return [_apply(pk, runs.get(pk), change) for pk in dict.fromkeys(ids)]


@dataclass(frozen=True)
class _Change:
    by: User
    action: str
    labels: list[str]


def _request_check(ids: list[int], action: str, labels: Iterable[str], by: User) -> _Change:
    if action not in ACTIONS:
        known = ", ".join(ACTIONS)
        raise UserError({"action": [f"Give one of {known}."]})

    if not 0 < len(set(ids)) <= MOST_TRAINS:
        raise UserError({"ids": [f"Choose 1 to {MOST_TRAINS} trains."]})

    clean = labels_clean(labels)
    if action in ("label", "unlabel") and not clean:
        raise UserError({"labels": ["Write at least one label."]})

    return _Change(by, action, clean)


def _visible(ids: list[int], by: User) -> dict[int, TrainRun]:
    visible = TrainRun.objects.visible_to(by).select_related("owner").prefetch_related("labels")
    return visible.in_bulk(ids)


def _plan(pk: int, run: TrainRun | None, change: _Change) -> BulkItem:
    if run is None:
        return BulkItem(pk, "", False, "There is no such train any more.")
    if not may_change(run, change.by):
        return BulkItem(pk, run.name, False, "Only its owner and operators can change it.")

    if change.action == "stop":
        ok, message = _stop_effect(run)
    elif change.action == "delete":
        ok, message = _delete_effect(run, change.by)
    else:
        ok, message = _label_effect(run, change)

    return BulkItem(pk, run.name, ok, message)


def _apply(pk: int, run: TrainRun | None, change: _Change) -> BulkItem:
    planned = _plan(pk, run, change)
    if run is None or not planned.ok:
        return planned

    try:
        message = _act(run, change)
    except UserError as error:
        return BulkItem(pk, run.name, False, error.message)
    except PermissionDenied:
        return BulkItem(pk, run.name, False, "Only its owner and operators can do this.")

    return BulkItem(pk, run.name, True, message)


def _act(run: TrainRun, change: _Change) -> str:
    """What was done, in a sentence."""
    labels = ", ".join(change.labels)

    if change.action == "stop":
        stopped = train_stop(run=run, by=change.by)
        return "Stopped." if stopped.ended else "Finishes its step, saves, and stops."

    if change.action == "delete":
        train_delete(run=run, by=change.by)
        return "Deleted."

    if change.action == "label":
        labels_change(run=run, by=change.by, add=change.labels)
        return f"Labelled {labels}."

    labels_change(run=run, by=change.by, remove=change.labels)
    return f"No longer labelled {labels}."


def _stop_effect(run: TrainRun) -> tuple[bool, str]:
    if run.ended:
        return False, f"It has ended already ({run.get_status_display().lower()})."
    if run.status == Status.STOPPING:
        return False, "It is stopping already."
    if run.status == Status.QUEUED:
        return True, "Leaves the queue. It has not started; its settings are kept."

    return True, "Finishes its step, saves a checkpoint and its model, and stops."


def _delete_effect(run: TrainRun, by: User) -> tuple[bool, str]:
    if not run.ended:
        return False, f"It is {run.get_status_display().lower()}. Stop it first."
    if reason := needed_text(run, by):
        return False, reason

    return True, "Settings, curves, log, answers, checkpoints and model are removed for good."


def _label_effect(run: TrainRun, change: _Change) -> tuple[bool, str]:
    present = {label.name.lower() for label in run.labels.all()}

    if change.action == "label":
        added = [label for label in change.labels if label.lower() not in present]
        if not added:
            return False, "Has this label already."

        return True, f"Gets {', '.join(added)}."

    removed = [label for label in change.labels if label.lower() in present]
    if not removed:
        return False, "Does not have this label."

    return True, f"Loses {', '.join(removed)}."

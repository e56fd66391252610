"""Several trains at once: stop, label, delete. What would happen to each is said before, and what
happened after."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied

from core.errors import UserError
from core.ownership import may_change
from training.models import TrainRun
from training.train.labels import labels_change, labels_clean
from training.train.services import train_delete, train_stop

Status = TrainRun.Status
ACTIONS = ("stop", "label", "unlabel", "delete")
MOST_TRAINS = 200


@dataclass(frozen=True)
class BulkItem:
    """What an action does to one train (`ok`), or why it does nothing."""

    id: int
    name: str
    ok: bool
    message: str


def bulk_plan(
    *, ids: list[int], by: User, action: str, labels: Iterable[str] = ()
) -> list[BulkItem]:
    """What `action` would do to each train, in the order of `ids`; nothing is changed.

    Raises UserError for an action that there is not, too many trains, or labels that cannot be.
    """
    words = _request_check(ids, action, labels)
    runs = _visible(ids, by)
    return [_plan(pk, runs.get(pk), by, action, words) for pk in dict.fromkeys(ids)]


def bulk_apply(
    *, ids: list[int], by: User, action: str, labels: Iterable[str] = ()
) -> list[BulkItem]:
    """Do it. A train that refuses does not keep the others from it."""
    words = _request_check(ids, action, labels)
    runs = _visible(ids, by)
    return [_apply(pk, runs.get(pk), by, action, words) for pk in dict.fromkeys(ids)]


def _request_check(ids: list[int], action: str, labels: Iterable[str]) -> list[str]:
    if action not in ACTIONS:
        raise UserError({"action": [f"Give one of {', '.join(ACTIONS)}."]})
    if not 0 < len(set(ids)) <= MOST_TRAINS:
        raise UserError({"ids": [f"Choose 1 to {MOST_TRAINS} trains."]})

    words = labels_clean(labels)
    if action in ("label", "unlabel") and not words:
        raise UserError({"labels": ["Write at least one label."]})

    return words


def _visible(ids: list[int], by: User) -> dict[int, TrainRun]:
    visible = TrainRun.objects.visible_to(by).select_related("owner").prefetch_related("labels")
    return visible.in_bulk(ids)


def _plan(pk: int, run: TrainRun | None, by: User, action: str, words: list[str]) -> BulkItem:
    if run is None:
        return BulkItem(pk, "", False, "There is no such train any more.")
    if not may_change(run, by):
        return BulkItem(pk, run.name, False, "Only its owner and operators can change it.")

    if action == "stop":
        ok, message = _stop_effect(run)
    elif action == "delete":
        ok, message = _delete_effect(run)
    else:
        ok, message = _label_effect(run, action, words)

    return BulkItem(pk, run.name, ok, message)


def _apply(pk: int, run: TrainRun | None, by: User, action: str, words: list[str]) -> BulkItem:
    planned = _plan(pk, run, by, action, words)
    if run is None or not planned.ok:
        return planned

    try:
        done = _act(run, by, action, words)
    except UserError as error:
        return BulkItem(pk, run.name, False, error.message)
    except PermissionDenied:
        return BulkItem(pk, run.name, False, "Only its owner and operators can do this.")

    return BulkItem(pk, run.name, True, done)


def _act(run: TrainRun, by: User, action: str, words: list[str]) -> str:
    """What was done, in words."""
    if action == "stop":
        stopped = train_stop(run=run, by=by)
        return "Stopped." if stopped.ended else "Finishes its step, saves, and stops."

    if action == "delete":
        train_delete(run=run, by=by)
        return "Deleted."

    if action == "label":
        labels_change(run=run, by=by, add=words)
        return f"Labelled {', '.join(words)}."

    labels_change(run=run, by=by, remove=words)
    return f"No longer labelled {', '.join(words)}."


def _stop_effect(run: TrainRun) -> tuple[bool, str]:
    if run.ended:
        return False, f"It has ended already ({run.get_status_display().lower()})."
    if run.status == Status.STOPPING:
        return False, "It is stopping already."
    if run.status == Status.QUEUED:
        return True, "Leaves the queue. It has not started; its settings are kept."

    return True, "Finishes its step, saves a checkpoint and its model, and stops."


def _delete_effect(run: TrainRun) -> tuple[bool, str]:
    if not run.ended:
        return False, f"It is {run.get_status_display().lower()}. Stop it first."

    return True, "Settings, curves, log, answers, checkpoints and model are removed for good."


def _label_effect(run: TrainRun, action: str, words: list[str]) -> tuple[bool, str]:
    present = {label.name.lower() for label in run.labels.all()}
    if action == "label":
        new = [word for word in words if word.lower() not in present]
        return bool(new), f"Gets {', '.join(new)}." if new else "Has this label already."

    gone = [word for word in words if word.lower() in present]
    return bool(gone), f"Loses {', '.join(gone)}." if gone else "Does not have this label."

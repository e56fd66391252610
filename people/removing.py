"""Removing an account: what happens to everything that belongs to it, step by step.

1. The account is closed: it cannot sign in, its sessions and tokens are gone.
2. What it has is handed over, or its trains are stopped and everything is deleted with its files.
3. The account is deleted.

Step 2 may have to wait for trains that save or stop. It is tried again every few seconds
(training.work.reconcile) and may be interrupted anywhere. At no moment does anything become visible to
people who could not see it before, except to the person to whom it is handed over.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import ProtectedError
from knox.models import get_token_model

from chains.models import Chain
from chains.services import chain_cancel, chain_delete
from core.errors import UserError
from core.ownership import Owned, owned_models, released_on_hand_over
from core.store import trials_folder
from datasets_app.models import Dataset
from datasets_app.services import dataset_delete
from exports.services import exports_delete
from jobs.models import Job, Notice
from models_app.models import BaseModel
from models_app.services import model_delete
from openai_api.files import files_pass_on
from openai_api.inference.batches import batches_cancel
from people.holdings import holdings_text, rows_to_keep, uses_by_others, uses_text
from people.models import PersonRemoval
from people.rights import may_remove
from playground.models import Conversation
from playground.services import conversation_delete
from sweeps.models import Sweep
from sweeps.services import sweep_delete, sweep_stop
from training.models import TrainRun
from training.train.services import train_delete, train_stop
from training.train.step_trial import steps_delete

logger = logging.getLogger("deepextension.people")

# How a row of each kind is deleted with its files. In this order: chains and sweeps need trains,
# and trains need datasets and models.
DELETE: dict[type[Owned], Callable[[Any, User], None]] = {
    Conversation: lambda conversation, by: conversation_delete(conversation=conversation, by=by),
    Chain: lambda chain, by: chain_delete(chain=chain, by=by),
    Sweep: lambda sweep, by: sweep_delete(sweep=sweep, by=by),
    TrainRun: lambda run, by: train_delete(run=run, by=by),
    Dataset: lambda dataset, by: dataset_delete(dataset=dataset, by=by),
    BaseModel: lambda model, by: model_and_exports_delete(model, by),
}


def model_and_exports_delete(model: BaseModel, by: User) -> None:
    with transaction.atomic():
        exports_delete(model, by)
        model_delete(model=model, by=by)


def person_remove(
    *, person: User, by: User, hand_over_to: User | None = None, delete_data: bool = False
) -> PersonRemoval | None:
    """Remove an account, and hand over or delete what belongs to it.

    hand_over_to: who gets everything; with `delete_data` too, who gets what others use.
    delete_data: stop the person's trains and delete all datasets, models and trains with their
    files.

    Returns None when the account is deleted, and its PersonRemoval while trains are still stopping.
    Raises PermissionDenied, and UserError where neither is given, or others use what would be
    deleted.
    """
    removal_check(person=person, by=by, hand_over_to=hand_over_to, delete_data=delete_data)

    with transaction.atomic():
        removal, _ = PersonRemoval.objects.update_or_create(
            person=person,
            defaults={
                "hand_over_to": hand_over_to,
                "delete_data": delete_data,
                "asked_by": by,
                "obstacle": "",
            },
        )

        account_close(person)

    logger.info("%s asked for the removal of %s", by.get_username(), person.get_username())
    is_deleted = removal_finish(removal)

    return None if is_deleted else removal


def removal_check(*, person: User, by: User, hand_over_to: User | None, delete_data: bool) -> None:
    """Whether an account can be removed like this. Raises PermissionDenied or UserError."""
    if not may_remove(by, person):
        raise PermissionDenied

    name = person.get_username()
    superusers = User.objects.filter(is_superuser=True, is_active=True)
    if person.is_superuser and not superusers.exclude(pk=person.pk).exists():
        raise UserError(
            f"{name} is the last superuser. Make somebody else a superuser first.",
            code="wrong_state",
        )

    if hand_over_to is not None:
        heir_check(person, hand_over_to)

    holdings = holdings_text(person)
    if hand_over_to is None and holdings and not delete_data:
        message = f"{name} has {holdings}. Say who gets them, or that they are to be deleted."
        raise UserError({"hand_over_to": [message]})

    if hand_over_to is None and delete_data:
        _unused_check(person)


def _unused_check(person: User) -> None:
    """Raises UserError (409) where others use something of this person."""
    uses = uses_by_others(person)
    if not uses:
        return

    message = f"Not everything can be deleted: {uses_text(uses)}. Say who gets what others use."
    raise UserError({"hand_over_to": [message]}, code="in_use", status=409)


def heir_check(person: User, heir: User) -> None:
    """Whether what `person` has can be handed over to `heir`. Raises UserError."""
    if heir.pk == person.pk:
        message = "Choose somebody else than the person who goes."
        raise UserError({"hand_over_to": [message]})

    if not heir.is_active or PersonRemoval.objects.filter(person=heir).exists():
        message = f"The account {heir.get_username()} is closed. Choose somebody else."
        raise UserError({"hand_over_to": [message]})


def account_close(person: User) -> None:
    """Close an account: nobody can sign in with it any more, its sessions and tokens end, and its
    batches are cancelled."""
    User.objects.filter(pk=person.pk).update(is_active=False)
    person.is_active = False
    get_token_model().objects.filter(user=person).delete()
    batches_cancel(person)
    sessions_end(person)


def sessions_end(person: User) -> None:
    # A session keeps its person's id inside its encoded data, so that each has to be decoded.
    user_id = str(person.pk)
    own = [
        session.pk
        for session in Session.objects.iterator()
        if session.get_decoded().get("_auth_user_id") == user_id
    ]

    Session.objects.filter(pk__in=own).delete()


def removals_finish() -> None:
    """Try again to finish every removal that waits for trains to stop."""
    for removal in PersonRemoval.objects.select_related("person", "hand_over_to"):
        try:
            removal_finish(removal)
        except OSError:
            # A disk that does not answer must not hold up the other removals.
            logger.exception("%s cannot be removed yet", removal.person.get_username())


def removal_finish(removal: PersonRemoval) -> bool:
    """Do what can be done now. Returns whether the account is deleted. May be repeated, and
    interrupted anywhere."""
    person = removal.person
    heir = removal.hand_over_to

    try:
        if removal.delete_data and not data_delete(person, keep_used=heir is not None):
            return False

        trials_delete(person)
        steps_delete(person)

        with transaction.atomic():
            if heir is not None:
                data_hand_over(person, heir)

            jobs_hand_over(person, heir)
            files_pass_on(person, heir)
            person.delete()
    except UserError as error:
        _obstacle_store(removal, error.message)
        return False
    except ProtectedError:
        _obstacle_store(removal, "Something new belongs to this account.")
        return False

    logger.info("account %s is removed", person.get_username())
    return True


def _obstacle_store(removal: PersonRemoval, obstacle: str) -> None:
    PersonRemoval.objects.filter(pk=removal.pk).update(obstacle=obstacle)

    if obstacle != removal.obstacle:
        # Once, and not at every try.
        logger.warning("%s cannot be removed yet: %s", removal.person.get_username(), obstacle)


def data_delete(person: User, *, keep_used: bool) -> bool:
    """Delete everything that belongs to `person`; with `keep_used`, except what others use.

    Returns False while trains are still stopping; call it again then. Raises UserError where others
    use something that is not to be kept.
    """
    uses = uses_by_others(person)
    if uses and not keep_used:
        raise UserError(
            f"Not everything can be deleted: {uses_text(uses)}.", code="in_use", status=409
        )

    for chain in Chain.objects.running().filter(owner=person):
        chain_cancel(chain=chain, by=person)

    for sweep in Sweep.objects.active().filter(owner=person):
        sweep_stop(sweep=sweep, by=person)

    open_trains = TrainRun.objects.filter(owner=person).exclude(status__in=TrainRun.ENDED)
    for run in open_trains:
        train_stop(run=run, by=person, discard=True)

    if open_trains.all().exists():
        return False

    kept = rows_to_keep(person, uses)

    for model, delete in DELETE.items():
        rows = model._base_manager.filter(owner=person).exclude(pk__in=kept[model])
        # The newest first: later versions of a dataset refer to earlier ones.
        for row in rows.order_by("-pk"):
            delete(row, person)

    return True


def trials_delete(person: User) -> None:
    """Delete trials of rewards: they hold rows of datasets, and no database row refers to them."""
    for folder in trials_folder().glob(f"{person.pk}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def jobs_hand_over(person: User, heir: User | None) -> None:
    """What waits or runs in the background is done for whoever has its subject now; what has ended
    is forgotten."""
    jobs = Job.objects.filter(owner=person, trainrun=None)
    for job in jobs.filter(status__in=Job.ENDED):
        job.forget()

    jobs.update(owner=heir)


def data_hand_over(person: User, heir: User) -> None:
    """Make `heir` the owner of everything that belongs to `person`. Trains that wait or run
    continue."""
    # Mail that has not been sent yet was for the person who goes.
    Notice.objects.filter(job__owner=person, way=Notice.Way.MAIL, sent_at=None).delete()

    for model in owned_models():
        rows = model._base_manager.filter(owner=person)
        rows.update(owner=heir, **released_on_hand_over(model))

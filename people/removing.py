"""Removing an account: what happens to everything that belongs to it, step by step.

1. The account is closed: it cannot sign in, its sessions and tokens are gone.
2. What it has is handed over, or its trains are stopped and everything is deleted with its files.
3. The account is deleted.

Step 2 may have to wait for trains that save or stop. It is tried again every few seconds
(training.work.reconcile) and can be broken off anywhere. At no moment does anything become visible to
people who could not see it before, but for the one to whom it is handed over.
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

from core.errors import UserError
from core.ownership import Owned, owned_models, released_on_hand_over
from core.store import trials_folder
from datasets_app.models import Dataset
from datasets_app.services import dataset_delete
from models_app.models import BaseModel
from models_app.services import model_delete
from people.holdings import holdings_text, rows_to_keep, uses_by_others, uses_text
from people.models import PersonRemoval
from people.rights import may_remove
from training.models import Notice, TrainRun
from training.train.services import train_delete, train_stop

logger = logging.getLogger("deepextension.people")

# How a row of every kind goes with its files. In this order: trains need datasets and models.
DELETE: dict[type[Owned], Callable[[Any, User], None]] = {
    TrainRun: lambda run, by: train_delete(run=run, by=by),
    Dataset: lambda dataset, by: dataset_delete(dataset=dataset, by=by),
    BaseModel: lambda model, by: model_delete(model=model, by=by),
}


def person_remove(
    *, person: User, by: User, hand_over_to: User | None = None, delete_data: bool = False
) -> PersonRemoval | None:
    """Remove an account, and hand over or delete what belongs to it.

    hand_over_to: who gets everything; with `delete_data` too, who gets what others use.
    delete_data: stop the person's trains and delete all datasets, models and trains with their
    files.

    Returns None when the account is gone, and its PersonRemoval while trains are still stopping.
    Raises PermissionDenied, and UserError where nobody has said what is to happen, or others use
    what would be deleted.
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
    return None if removal_finish(removal) else removal


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
    if holdings and hand_over_to is None and not delete_data:
        raise UserError(
            {
                "hand_over_to": [
                    f"{name} has {holdings}. Say who gets them, or that they are to be deleted."
                ]
            }
        )

    uses = uses_by_others(person) if delete_data and hand_over_to is None else []
    if uses:
        raise UserError(
            {
                "hand_over_to": [
                    f"Not everything can be deleted: {uses_text(uses)}. Say who gets what others "
                    "use."
                ]
            },
            code="in_use",
            status=409,
        )


def heir_check(person: User, heir: User) -> None:
    if heir.pk == person.pk:
        raise UserError({"hand_over_to": ["Choose somebody else than the person who goes."]})

    if not heir.is_active or PersonRemoval.objects.filter(person=heir).exists():
        raise UserError(
            {
                "hand_over_to": [
                    f"The account {heir.get_username()} is closed. Choose somebody else."
                ]
            }
        )


def account_close(person: User) -> None:
    """Nobody can sign in with this account any more, and whoever is signed in with it no longer
    is."""
    User.objects.filter(pk=person.pk).update(is_active=False)
    person.is_active = False
    get_token_model().objects.filter(user=person).delete()
    sessions_end(person)


def sessions_end(person: User) -> None:
    """A session keeps its person's id inside its encoded data, so that every one is looked into."""
    own = [
        session.pk
        for session in Session.objects.iterator()
        if session.get_decoded().get("_auth_user_id") == str(person.pk)
    ]

    Session.objects.filter(pk__in=own).delete()


def removals_finish() -> None:
    """Try again to finish every removal that waits for trains to stop."""
    for removal in PersonRemoval.objects.select_related("person", "hand_over_to"):
        try:
            removal_finish(removal)
        except OSError:
            # A disk that does not answer: the others are not kept waiting.
            logger.exception("%s cannot be removed yet", removal.person.get_username())


def removal_finish(removal: PersonRemoval) -> bool:
    """Do what can be done now. Returns whether the account is gone. May be repeated, and broken off
    anywhere.
    """
    person = removal.person
    try:
        if removal.delete_data and not data_delete(
            person, keep_used=removal.hand_over_to is not None
        ):
            return False

        trials_delete(person)
        with transaction.atomic():
            if removal.hand_over_to is not None:
                data_hand_over(person, removal.hand_over_to)

            person.delete()
    except (UserError, ProtectedError) as error:
        obstacle = (
            error.message
            if isinstance(error, UserError)
            else "Something new belongs to this account."
        )

        PersonRemoval.objects.filter(pk=removal.pk).update(obstacle=obstacle)

        if obstacle != removal.obstacle:
            # Once, and not at every try.
            logger.warning("%s cannot be removed yet: %s", person.get_username(), obstacle)

        return False

    logger.info("account %s is removed", person.get_username())
    return True


def data_delete(person: User, *, keep_used: bool) -> bool:
    """Delete everything that belongs to `person`; `keep_used`: but for what others use.

    Returns False while trains are still stopping; call it again then. Raises UserError where others
    use something that is not to be kept.
    """
    uses = uses_by_others(person)
    if uses and not keep_used:
        raise UserError(
            f"Not everything can be deleted: {uses_text(uses)}.", code="in_use", status=409
        )

    open_ones = TrainRun.objects.filter(owner=person).exclude(status__in=TrainRun.ENDED)
    for run in open_ones:
        train_stop(run=run, by=person, discard=True)

    if open_ones.all().exists():
        return False

    kept = rows_to_keep(person, uses)
    for model, delete in DELETE.items():
        # The newest first: later versions of a dataset refer to earlier ones.
        for row in (
            model._base_manager.filter(owner=person).exclude(pk__in=kept[model]).order_by("-pk")
        ):
            delete(row, person)

    return True


def trials_delete(person: User) -> None:
    """Trials of rewards hold rows of datasets, and belong to no row of the database."""
    for folder in trials_folder().glob(f"{person.pk}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def data_hand_over(person: User, heir: User) -> None:
    """Everything that belongs to `person` is the heir's. Trains that wait or run go on."""
    # Mail that has not been sent yet was for the one who goes.
    Notice.objects.filter(run__owner=person, way=Notice.Way.MAIL, sent_at=None).delete()

    for model in owned_models():
        rows = model._base_manager.filter(owner=person)
        rows.update(owner=heir, **released_on_hand_over(model))

"""Once a day what nobody needs any more leaves the storage of a Ray cluster, also where a person or a
dataset was deleted meanwhile."""

from __future__ import annotations

import logging
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from core.store import runs_folder
from engine.messages.plural import counted
from engine.storage.clearing import storage_clear
from engine.storage.errors import StorageAway, StorageError
from engine.storage.session import Attempt, owner_of
from engine.storage.store import Store
from engine.storage.trees import SUMS, Sums
from jobs.adding import job_add
from jobs.kinds import NotNow
from jobs.models import Job
from training.models import TrainRun

KIND = "storage-clearing"
EVERY = timedelta(days=1)
EXPECTED_SECONDS = 60
AGAIN_SECONDS = 900

logger = logging.getLogger("deepextension.storage")


def storage_clearing_due() -> None:
    """Have a worker do it where the last time is long enough ago. For the housekeeping to call."""
    if settings.STORAGE is None:
        return

    since = timezone.now() - EVERY
    if not Job.objects.filter(kind=KIND, created_at__gte=since).exists():
        job_add(
            KIND,
            key=KIND,
            name="Clear the storage",
            owner_id=None,
            expected_seconds=EXPECTED_SECONDS,
        )


def storage_clearing_run() -> str:
    """Returns why the storage refuses it, or nothing. Raises NotNow where it is away."""
    if settings.STORAGE is None:
        return ""

    runs = runs_folder()
    store, sums = Store(settings.STORAGE), Sums(runs / SUMS)
    try:
        cleared = storage_clear(store, owner_of(runs), sums, attempts_on_clusters)
    except StorageAway as error:
        raise NotNow(str(error), seconds=AGAIN_SECONDS) from error
    except StorageError as error:
        return str(error)

    attempts, inputs = counted(cleared.sessions, "attempt"), counted(cleared.inputs, "input")
    logger.info("removed from the storage: %s, %s", attempts, inputs)
    return ""


def attempts_on_clusters() -> set[Attempt]:
    """Those that are at work now."""
    return {(run.pk, run.attempt) for run in TrainRun.objects.active() if run.cluster}

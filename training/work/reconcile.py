"""Housekeeping every few seconds: no train says "running" when nothing runs, and none is forgotten
by the queue.

Every call may be repeated or run twice at the same time: all writes are conditional, and a
notification too many does nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.db import DataError, IntegrityError
from django.db import Error as DatabaseProblem

from core.outages import obstacle_note, outage_of
from datasets_app.services import datasets_reconcile
from exports.services import exports_reconcile
from jobs.devices.lost_workers import supervisor_is_alive
from jobs.devices.machines import machines_note
from jobs.devices.presence import worker_state
from jobs.devices.supervisor import Overtaken
from jobs.notices import notices_enqueue
from jobs.services import jobs_reconcile
from models_app.services import models_reconcile
from training.models import TrainRun
from training.train.resuming import train_end_or_resume
from training.work.claiming import waiting_trains_notify
from training.work.ingest import ingest
from training.work.outcome import decide, record_unreadable
from training.work.storage_clearing import storage_clearing_due

logger = logging.getLogger("deepextension.reconcile")

# The housekeeping of apps above this one.
_also: list[Callable[[], None]] = []


def reconcile_also(job: Callable[[], None]) -> None:
    """Have `job` called every few seconds too. For an app to call once, when it is ready."""
    _also.append(job)


def reconcile() -> None:
    """Take every step. What goes wrong with one does not hold up others: the one behind it may be
    what makes room on a full disk."""
    steps = (
        lost_trains_close,
        machines_look,
        jobs_reconcile,
        notices_enqueue,
        datasets_reconcile,
        models_reconcile,
        exports_reconcile,
        storage_clearing_due,
        *_also,
    )

    for step in steps:
        try:
            step()
        except Exception as error:
            obstacle_note(logger, getattr(step, "__name__", str(step)), error)


def lost_trains_close() -> None:
    """End trains whose supervisor is gone. What goes wrong with one does not hold up others."""
    for run in TrainRun.objects.active():
        try:
            _close_if_lost(run)
        except Exception as error:
            obstacle_note(logger, f"train {run.pk}", error)


def _close_if_lost(run: TrainRun) -> None:
    """Read what the engine still wrote, then record how it ended."""
    if supervisor_is_alive(run):
        return

    try:
        ingest(run)
    except Overtaken:
        return
    except Exception as error:
        if not _is_of_the_record(error):
            raise

        logger.exception("the record of train %s cannot be read", run.pk)
        outcome = record_unreadable(error)
    else:
        outcome = decide(run, None)

    if train_end_or_resume(run, outcome):
        logger.warning("train %s had lost its worker: %s", run.pk, outcome.status)


def _is_of_the_record(error: Exception) -> bool:
    """Whether what the train wrote caused it. A disk, a memory or a database that fails may work again
    at the next look; of the database's errors only those of values come back."""
    if isinstance(error, OSError | MemoryError) or outage_of(error):
        return False

    return not isinstance(error, DatabaseProblem) or isinstance(error, DataError | IntegrityError)


def machines_look() -> None:
    """Note which machines are there, and notify workers of trains that could start, again where a
    notification was lost."""
    state = worker_state()
    if state.machines:
        machines_note(state.machines)

    waiting_trains_notify(state)

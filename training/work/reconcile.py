"""House-keeping every few seconds: no train says "running" when nothing runs, and none is forgotten
by the queue.

Every call may be repeated or run twice at the same time: all writes are conditional, and a
notification too many does nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable

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
from training.work.outcome import decide

logger = logging.getLogger("deepextension.reconcile")

# The house-keeping of apps above this one.
_also: list[Callable[[], None]] = []


def reconcile_also(job: Callable[[], None]) -> None:
    """Have `job` called every few seconds too. For an app to call once, when it is ready."""
    _also.append(job)


def reconcile() -> None:
    lost_trains_close()
    machines_look()
    jobs_reconcile()
    notices_enqueue()
    datasets_reconcile()
    models_reconcile()
    exports_reconcile()

    for job in _also:
        job()


def lost_trains_close() -> None:
    """End trains whose supervisor is gone: read what the engine still wrote, then record how it
    ended."""
    for run in TrainRun.objects.active():
        if supervisor_is_alive(run):
            continue

        try:
            ingest(run)
        except Overtaken:
            continue

        outcome = decide(run, None)
        if train_end_or_resume(run, outcome):
            logger.warning("train %s had lost its worker: %s", run.pk, outcome.status)


def machines_look() -> None:
    """Note which machines are there, and notify workers of trains that could start, again where a
    notification was lost."""
    state = worker_state()
    if state.machines:
        machines_note(state.machines)

    waiting_trains_notify(state)

"""One train from claim to outcome, in the worker's job process."""

from __future__ import annotations

import logging
import os
import socket

from django.utils import timezone

from core.memory import Death
from core.processes import process_mark
from jobs.devices.presence import worker_device
from jobs.devices.sharing import device_for_train
from jobs.devices.supervisor import Overtaken, Supervisor
from training.models import TrainRun
from training.train.resuming import train_end_or_resume
from training.train.spec_paths import spec_settle
from training.work.ingest import ingest
from training.work.outcome import decide, worker_lost
from training.work.queue import train_claim

logger = logging.getLogger("deepextension.supervisor")


def supervise_next(worker: str) -> None:
    """Claim the next train that this worker can run and supervise it to its end. Returns at once
    where none waits."""
    now = timezone.now()
    device, identity = worker_device(worker)
    run = train_claim(
        device,
        worker=worker,
        host=socket.gethostname(),
        process=process_mark(os.getpid()),
        started_at=now,
        heartbeat_at=now,
        phase="starting",
    )

    if run is None:
        return

    spec_settle(run)
    supervisor = TrainSupervisor(run)
    supervisor.listen()
    try:
        with device_for_train(device, identity, supervisor.is_stopped_early):
            supervisor.work()
    except Overtaken as error:
        logger.warning("standing down: %s", error)


class TrainSupervisor(Supervisor[TrainRun]):
    def read_events(self) -> None:
        ingest(self.job)

    def end(self, exit_status: int | None, *, by_us: bool, death: Death | None) -> None:
        outcome = decide(self.job, exit_status, by_us=by_us, death=death)
        was_stopped = outcome.status == TrainRun.Status.STOPPED
        if self.shutting_down and was_stopped and not self.stop_asked_by_person():
            outcome = worker_lost("The platform was shut down while this train ran.")

        train_end_or_resume(self.job, outcome)

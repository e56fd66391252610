"""One train from claim to outcome, in the worker's job process."""

from __future__ import annotations

import logging
import os
import socket

from django.db import Error
from django.utils import timezone

from core.devices import devices_environment
from core.memory import Death
from core.processes import process_mark
from jobs.devices.cluster import cluster_environment
from jobs.devices.locks import DeviceLocks
from jobs.devices.presence import Seat, seat_of
from jobs.devices.sharing import devices_for_train
from jobs.devices.supervisor import Overtaken, Supervisor
from training.models import TrainRun
from training.train.resuming import train_end_or_resume
from training.train.spec_paths import spec_settle
from training.work.claiming import train_claim, waiting_trains_notify
from training.work.ingest import ingest
from training.work.outcome import decide, shut_down

logger = logging.getLogger("deepextension.supervisor")


def supervise_next(worker: str) -> None:
    """Claim the next train that starts on this worker's device and supervise it to its end. Returns
    at once where there is none."""
    now = timezone.now()
    seat = seat_of(worker)
    if seat is None:
        return

    locks = DeviceLocks(seat.machine.host if seat.machine.is_cluster else "")
    run = train_claim(
        seat,
        locks,
        worker=worker,
        host=socket.gethostname(),
        process=process_mark(os.getpid()),
        started_at=now,
        heartbeat_at=now,
        phase="starting",
    )

    if run is None:
        return

    try:
        _supervise(run, seat, locks)
    finally:
        locks.close()

    trains_notify()


def _supervise(run: TrainRun, seat: Seat, locks: DeviceLocks) -> None:
    spec_settle(run)
    supervisor = TrainSupervisor(run)
    supervisor.listen()

    if seat.machine.is_cluster:
        supervisor.work(cluster_environment(seat.machine.kind), list(locks.held.values()))
        return

    devices = [seat.machine.devices[device["identity"]] for device in run.devices]
    environment = devices_environment(devices)
    try:
        with devices_for_train(seat.machine.kind, locks.held, supervisor.is_stopped_early):
            supervisor.work(environment, list(locks.held.values()))
    except Overtaken as error:
        logger.warning("standing down: %s", error)


def trains_notify() -> None:
    """Devices have fallen free: notify the workers of trains that could start now. Where that
    fails, the watch does it within seconds."""
    try:
        waiting_trains_notify()
    except Error as error:
        logger.warning("database not available, the watch will notify: %s", error)


class TrainSupervisor(Supervisor[TrainRun]):
    def read_events(self) -> None:
        ingest(self.job)

    def end(self, exit_status: int | None, *, by_us: bool, death: Death | None) -> bool:
        outcome = decide(self.job, exit_status, by_us=by_us, death=death)
        was_stopped = outcome.status == TrainRun.Status.STOPPED
        if self.shutting_down and was_stopped and not self.stop_asked_by_person():
            outcome = shut_down()

        return train_end_or_resume(self.job, outcome)

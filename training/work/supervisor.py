"""One train from claim to outcome, in the worker's job process: start the engine, read what it
writes, pass on a stop.

A stop has stages, each entered after a grace period: the stop file (finish the step, save),
SIGTERM, SIGKILL. A stop that discards everything begins with SIGKILL. When the platform shuts down,
the job process gets SIGTERM and stops its engine in the same stages, with shorter grace periods."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from enum import IntEnum
from types import FrameType

from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections
from django.utils import timezone

from core.processes import process_mark
from engine.contract.rundir import stop_request
from training.models import TrainRun
from training.train.resuming import train_end_or_resume
from training.train.spec_paths import spec_settle
from training.work.ingest import Overtaken, ingest
from training.work.lost_workers import HeartbeatLoss
from training.work.outcome import Outcome, decide, worker_lost
from training.work.process import Engine
from training.work.queue import train_claim
from training.work.worker_state import worker_device

logger = logging.getLogger("deepextension.supervisor")

TICK_SECONDS = 0.2
HEARTBEAT_SECONDS = 1.0
SHUTDOWN_GRACE_SECONDS = 3.0
# What a database raises that is locked, restarted or out of reach.
AWAY = (OperationalError, InterfaceError)


class StopStage(IntEnum):
    NONE = 0
    STOP_FILE = 1
    TERMINATED = 2
    KILLED = 3


def supervise_next(worker: str) -> None:
    """Claim the next train that this worker can run and supervise it to its end. Returns at once
    where none waits."""
    now = timezone.now()
    run = train_claim(
        worker_device(worker),
        worker=worker,
        host=socket.gethostname(),
        process=process_mark(os.getpid()),
        started_at=now,
        heartbeat_at=now,
        phase="starting",
    )

    if run is not None:
        spec_settle(run)
        Supervisor(run).work()


class Supervisor:
    def __init__(self, run: TrainRun) -> None:
        self.run = run
        self.shutting_down = False
        self.stop_asked_at: float | None = None
        self.stop_stage = StopStage.NONE
        self.discards = False
        self.last_heartbeat = 0.0
        self.heartbeat_loss = HeartbeatLoss()

    def work(self) -> None:
        signal.signal(signal.SIGTERM, self.shut_down)
        engine = Engine.start(self.run.directory)
        try:
            while engine.poll() is None:
                engine.memory.look()
                self.tick(engine)
                time.sleep(TICK_SECONDS)

            self.conclude(engine)
        except Overtaken as error:
            logger.warning("standing down: %s", error)
            engine.signal(signal.SIGKILL)

    def tick(self, engine: Engine) -> None:
        """A locked or absent database costs nothing here: what was not read now is read later."""
        try:
            ingest(self.run)
            self.heartbeat()
            self.heartbeat_loss = HeartbeatLoss()
        except AWAY as error:
            self.wait_for_database(error)

        self.advance_stop(engine)

    def wait_for_database(self, error: Exception) -> None:
        """Raises Overtaken where this supervisor was declared lost."""
        logger.warning("database busy, will try again: %s", error)
        # A database that was restarted has ended the connection: the next try needs another.
        close_old_connections()

        if self.heartbeat_loss.must_give_up(self.run):
            raise Overtaken(f"attempt {self.run.attempt} of train {self.run.pk} was declared lost")

    def conclude(self, engine: Engine) -> None:
        """Read the last events and write the outcome. Only this process knows how the engine ended,
        so it waits for a database that is away; after HEARTBEAT_LIMIT_SECONDS the reconciler does
        it from what is on the disk."""
        attempt = self.run.attempt
        deadline = time.monotonic() + settings.HEARTBEAT_LIMIT_SECONDS
        has_failed = False

        while True:
            try:
                if has_failed:
                    # The failed transaction may have set fields of `run` that were not stored, or
                    # may have been committed although its answer was lost.
                    self.run.refresh_from_db()
                    if self.run.attempt != attempt or self.run.ended:
                        return

                ingest(self.run)
                self.end(self.outcome(engine))

                return
            except AWAY as error:
                if time.monotonic() > deadline:
                    raise

                has_failed = True
                self.wait_for_database(error)
                time.sleep(TICK_SECONDS)

    def outcome(self, engine: Engine) -> Outcome:
        return decide(
            self.run,
            None if engine.was_lost else engine.poll(),
            by_us=self.stop_stage >= StopStage.TERMINATED,
            death=engine.death,
        )

    def heartbeat(self) -> None:
        """Record that this train is supervised, and see whether somebody asked it to stop."""
        now = time.monotonic()
        if now - self.last_heartbeat < HEARTBEAT_SECONDS:
            return

        self.last_heartbeat = now
        mine = TrainRun.objects.filter(
            pk=self.run.pk,
            attempt=self.run.attempt,
            status__in=TrainRun.ACTIVE,
        )
        if not mine.update(heartbeat_at=timezone.now()):
            raise Overtaken(
                f"attempt {self.run.attempt} of train {self.run.pk} is no longer running"
            )

        # None where nobody asked for a stop.
        stopping = mine.filter(status=TrainRun.Status.STOPPING)
        discards = stopping.values_list("discards", flat=True).first()
        self.discards = bool(discards)

        if self.stop_asked_at is None and discards is not None:
            self.run.status = TrainRun.Status.STOPPING
            self.stop_asked_at = now

    def advance_stop(self, engine: Engine) -> None:
        """Enter the next stage of a stop once its time has come."""
        if self.stop_asked_at is None:
            return

        grace = SHUTDOWN_GRACE_SECONDS if self.shutting_down else settings.STOP_GRACE_SECONDS
        waited = time.monotonic() - self.stop_asked_at

        if self.discards and self.stop_stage < StopStage.KILLED:
            engine.signal(signal.SIGKILL)
            self.stop_stage = StopStage.KILLED
        elif self.stop_stage == StopStage.NONE:
            stop_request(self.run.directory)
            self.stop_stage = StopStage.STOP_FILE
        elif self.stop_stage == StopStage.STOP_FILE and waited > grace:
            engine.signal(signal.SIGTERM)
            self.stop_stage = StopStage.TERMINATED
        elif self.stop_stage == StopStage.TERMINATED and waited > 2 * grace:
            engine.signal(signal.SIGKILL)
            self.stop_stage = StopStage.KILLED

    def shut_down(self, number: int, frame: FrameType | None) -> None:
        self.shutting_down = True
        self.stop_asked_at = self.stop_asked_at or time.monotonic()

    def end(self, outcome: Outcome) -> None:
        """Write the outcome. A stop that only the shutdown caused is no stop: the train resumes."""
        was_stopped = outcome.status == TrainRun.Status.STOPPED
        if self.shutting_down and was_stopped and not self.stop_asked_by_person():
            outcome = worker_lost("The platform was shut down while this train ran.")

        train_end_or_resume(self.run, outcome)

    def stop_asked_by_person(self) -> bool:
        self.run.refresh_from_db(fields=["status"])
        return self.run.status == TrainRun.Status.STOPPING

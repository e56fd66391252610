"""One train from claim to outcome, in the work horse: start the engine, read what it writes, pass
on a stop.

Stop climbs a ladder, each rung after a grace: the stop file (finish the step, save), SIGTERM,
SIGKILL. One who wants nothing saved begins at the last rung. A horse that is told to go (SIGTERM:
the platform shuts down) stops its engine in the same way, with less patience."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from types import FrameType

from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections
from django.utils import timezone

from core.processes import process_mark
from engine.contract.rundir import stop_request
from training.models import TrainRun
from training.train.resuming import end_or_go_on
from training.train.spec_paths import spec_settle
from training.work.ingest import Overtaken, ingest
from training.work.lost_workers import Silence
from training.work.outcome import Outcome, decide, worker_lost
from training.work.process import Engine
from training.work.queue import claim
from training.work.worker_state import worker_device

logger = logging.getLogger("deepextension.supervisor")

TICK_SECONDS = 0.2
HEARTBEAT_SECONDS = 1.0
SHUTDOWN_GRACE_SECONDS = 3.0
# What a database raises that is locked, restarted or out of reach.
AWAY = (OperationalError, InterfaceError)


def supervise_next(worker: str) -> None:
    """Claim the next train in line that this worker can run and see it through. Returns at once
    where none waits."""
    now = timezone.now()
    run = claim(
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
        self.rung = 0
        self.discards = False
        self.last_heartbeat = 0.0
        self.silence = Silence()

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
            self.silence = Silence()
        except AWAY as error:
            self.wait_for_database(error)

        self.climb(engine)

    def wait_for_database(self, error: Exception) -> None:
        """Raises Overtaken where others have given up hope of hearing from this train's
        supervisor."""
        logger.warning("database busy, will try again: %s", error)
        # One that was restarted has ended the connection: the next try needs another.
        close_old_connections()

        if self.silence.ends_in_giving_up(self.run):
            raise Overtaken(f"attempt {self.run.attempt} of train {self.run.pk} was taken for gone")

    def conclude(self, engine: Engine) -> None:
        """Read the last events and write the outcome. How the engine ended is known here alone, so
        that a database which is away is waited for; after HEARTBEAT_LIMIT_SECONDS the reconciler
        does it from what lies on the disk."""
        attempt, given_up = self.run.attempt, time.monotonic() + settings.HEARTBEAT_LIMIT_SECONDS
        has_failed = False

        while True:
            try:
                if has_failed:
                    # What a transaction that failed has set here is not so, and one may have
                    # succeeded unheard.
                    self.run.refresh_from_db()
                    if self.run.attempt != attempt or self.run.ended:
                        return

                ingest(self.run)
                status = None if engine.was_lost else engine.poll()
                self.end(decide(self.run, status, by_us=self.rung >= 2, death=engine.death))

                return
            except AWAY as error:
                if time.monotonic() > given_up:
                    raise

                has_failed = True
                self.wait_for_database(error)
                time.sleep(TICK_SECONDS)

    def heartbeat(self) -> None:
        """Say that this train is looked after, and see whether somebody asked it to stop."""
        now = time.monotonic()
        if now - self.last_heartbeat < HEARTBEAT_SECONDS:
            return

        self.last_heartbeat = now
        mine = TrainRun.objects.filter(
            pk=self.run.pk, attempt=self.run.attempt, status__in=TrainRun.ACTIVE
        )
        if not mine.update(heartbeat_at=timezone.now()):
            raise Overtaken(
                f"attempt {self.run.attempt} of train {self.run.pk} is no longer running"
            )

        asked = (
            mine.filter(status=TrainRun.Status.STOPPING).values_list("discards", flat=True).first()
        )
        self.discards = bool(asked)

        if self.stop_asked_at is None and asked is not None:
            self.run.status = TrainRun.Status.STOPPING
            self.stop_asked_at = now

    def climb(self, engine: Engine) -> None:
        if self.stop_asked_at is None:
            return

        patience = SHUTDOWN_GRACE_SECONDS if self.shutting_down else settings.STOP_GRACE_SECONDS
        waited = time.monotonic() - self.stop_asked_at

        if self.discards and self.rung < 3:
            engine.signal(signal.SIGKILL)
            self.rung = 3
        elif self.rung == 0:
            stop_request(self.run.directory)
            self.rung = 1
        elif self.rung == 1 and waited > patience:
            engine.signal(signal.SIGTERM)
            self.rung = 2
        elif self.rung == 2 and waited > 2 * patience:
            engine.signal(signal.SIGKILL)
            self.rung = 3

    def shut_down(self, number: int, frame: FrameType | None) -> None:
        self.shutting_down = True
        self.stop_asked_at = self.stop_asked_at or time.monotonic()

    def end(self, outcome: Outcome) -> None:
        """Write the outcome."""
        if (
            self.shutting_down
            and outcome.status == TrainRun.Status.STOPPED
            and not self.stop_asked_by_person()
        ):
            outcome = worker_lost("The platform was shut down while this train ran.")

        end_or_go_on(self.run, outcome)

    def stop_asked_by_person(self) -> bool:
        self.run.refresh_from_db(fields=["status"])
        return self.run.status == TrainRun.Status.STOPPING

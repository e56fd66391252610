"""One job of a device from its start to its outcome, in the worker's job process: start the engine
on the job's directory, read what it writes, pass on a stop. What its events mean and how it ended
is for the job's kind to say.

A stop has stages, each entered after a grace period: the stop file (finish the step, save),
SIGTERM, SIGKILL. A stop that discards everything begins with SIGKILL. When the platform shuts down,
the job process gets SIGTERM and stops its engine in the same stages, with shorter grace periods."""

from __future__ import annotations

import logging
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import IntEnum
from types import FrameType
from typing import Generic, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections
from django.utils import timezone

from core.memory import Death
from engine.contract.rundir import stop_request
from jobs.devices.engine_process import Engine
from jobs.devices.lost_workers import HeartbeatLoss
from jobs.models import Job

J = TypeVar("J", bound=Job)

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


class Overtaken(RuntimeError):
    """Another attempt of the job has begun; this one must write nothing more."""


class Supervisor(ABC, Generic[J]):
    """A kind of job extends it."""

    def __init__(self, job: J) -> None:
        self.job = job
        self.shutting_down = False
        self.is_stopping = False
        self.stop_stage = StopStage.NONE
        self.stage_since = 0.0
        self.discards = False
        self.last_heartbeat = 0.0
        self.heartbeat_loss = HeartbeatLoss()

    def listen(self) -> None:
        """Stop the job when the platform shuts down."""
        signal.signal(signal.SIGTERM, self.shut_down)

    def is_stopped_early(self) -> bool:
        """While it waits to start its engine: whether it is to stop. Raises Overtaken."""
        try:
            self.heartbeat()
        except AWAY as error:
            self.wait_for_database(error)

        return self.is_stopping

    def work(self, environment: dict[str, str], locks: Sequence[int]) -> None:
        """environment: more variables of the engine. locks: descriptors of its devices, which it
        holds as long as it lives."""
        self.listen()
        engine = Engine.start(self.job.directory, environment, locks)
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
            self.read_events()
            self.heartbeat()
        except AWAY as error:
            self.wait_for_database(error)

        self.advance_stop(engine)

    def wait_for_database(self, error: Exception) -> None:
        """Raises Overtaken where this supervisor was declared lost."""
        logger.warning("database busy, will try again: %s", error)
        # A database that was restarted has ended the connection: the next try needs another.
        close_old_connections()

        if self.heartbeat_loss.must_give_up(self.job):
            raise Overtaken(
                f"attempt {self.job.attempt} of job {self.job.number} was declared lost"
            )

    def conclude(self, engine: Engine) -> None:
        """Read the last events and write the outcome. Only this process knows how the engine ended,
        so it waits for a database that is away; after HEARTBEAT_LIMIT_SECONDS the reconciler does
        it from what is on the disk."""
        attempt = self.job.attempt
        deadline = time.monotonic() + settings.HEARTBEAT_LIMIT_SECONDS
        must_look_again = False

        while True:
            try:
                if must_look_again:
                    # The failed transaction may have set fields of `run` that were not stored, or
                    # may have been committed although its answer was lost. Or somebody asked for a
                    # stop since the last look: the job is to end all the same.
                    self.job.refresh_from_db()
                    if self.job.attempt != attempt or self.job.ended:
                        return

                self.read_events()
                has_ended = self.end(
                    None if engine.was_lost else engine.poll(),
                    by_us=self.stop_stage >= StopStage.TERMINATED,
                    death=engine.death,
                )
                if has_ended:
                    return

                must_look_again = True
            except AWAY as error:
                if time.monotonic() > deadline:
                    raise

                must_look_again = True
                self.wait_for_database(error)
                time.sleep(TICK_SECONDS)

    def heartbeat(self) -> None:
        """Record that this job is supervised, and see whether somebody asked it to stop."""
        now = time.monotonic()
        if now - self.last_heartbeat < HEARTBEAT_SECONDS:
            return

        self.last_heartbeat = now
        mine = Job.objects.filter(
            number=self.job.number,
            attempt=self.job.attempt,
            status__in=Job.ACTIVE,
        )
        if not mine.update(heartbeat_at=timezone.now()):
            raise Overtaken(
                f"attempt {self.job.attempt} of job {self.job.number} is no longer running"
            )

        # None where nobody asked for a stop.
        stopping = mine.filter(status=Job.Status.STOPPING)
        discards = stopping.values_list("discards", flat=True).first()
        self.discards = bool(discards)

        if not self.is_stopping and discards is not None:
            self.job.status = Job.Status.STOPPING
            self.is_stopping = True

        # Only here has the database certainly answered: most ticks do not query it.
        self.heartbeat_loss = HeartbeatLoss()

    def advance_stop(self, engine: Engine) -> None:
        """Enter the next stage of a stop once its time has come."""
        if not self.is_stopping:
            return

        grace = SHUTDOWN_GRACE_SECONDS if self.shutting_down else settings.STOP_GRACE_SECONDS
        waited = time.monotonic() - self.stage_since

        if self.discards and self.stop_stage < StopStage.KILLED:
            engine.signal(signal.SIGKILL)
            self.stage_enter(StopStage.KILLED)
        elif self.stop_stage == StopStage.NONE:
            stop_request(self.job.directory)
            self.stage_enter(StopStage.STOP_FILE)
        elif self.stop_stage == StopStage.STOP_FILE and waited > grace:
            engine.signal(signal.SIGTERM)
            self.stage_enter(StopStage.TERMINATED)
        elif self.stop_stage == StopStage.TERMINATED and waited > grace:
            engine.signal(signal.SIGKILL)
            self.stage_enter(StopStage.KILLED)

    def stage_enter(self, stage: StopStage) -> None:
        self.stop_stage = stage
        self.stage_since = time.monotonic()

    def shut_down(self, number: int, frame: FrameType | None) -> None:
        if not self.shutting_down and self.stop_stage < StopStage.TERMINATED:
            # A save that somebody asked for before has the time of a shutdown from here on.
            self.stage_since = time.monotonic()

        self.is_stopping = True
        self.shutting_down = True

    def stop_asked_by_person(self) -> bool:
        self.job.refresh_from_db(fields=["status"])
        return self.job.status == Job.Status.STOPPING

    @abstractmethod
    def read_events(self) -> None:
        """Store what the engine wrote since the last call. Raises Overtaken."""

    @abstractmethod
    def end(self, exit_status: int | None, *, by_us: bool, death: Death | None) -> bool:
        """Write how the job ended; False, with nothing written, where it has changed since it was
        read. A stop that only a shutdown of the platform caused
        (`shutting_down`) is no stop.

        exit_status: the engine's, None where nobody knows it. by_us: whether a signal that ended it
        came from here. death: what was measured around it."""

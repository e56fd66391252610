"""The worker of background work: one job at a time, each in a process of its own.

The worker itself runs nothing of a job. It watches the process: ends it when its time is over or
when it was stopped, and gives the job back where the process broke off. Whatever the process
started belongs to its process group and ends with it. What they print is the job's log.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import signal
import socket
import sys
import time
from importlib import import_module
from types import FrameType

from django.db import InterfaceError, OperationalError, close_old_connections, connections
from django.utils import timezone
from redis.client import PubSub
from redis.exceptions import RedisError

from core.errors import UserError
from core.outages import outage_of
from core.processes import process_mark
from core.queue import connection
from engine.process.isolation import die_with_parent
from jobs.adding import CHANNEL
from jobs.devices.lost_workers import HeartbeatLoss
from jobs.kinds import CANCELLED, TOO_LONG, NotNow, function_of, kind_of, kinds
from jobs.models import Job
from jobs.progress import job_is_current
from jobs.services import (
    LANE_LIMITS,
    Status,
    job_claim,
    job_end,
    job_failed,
    job_give_back,
    job_move_on,
    job_put_off,
    jobs_give_back_unknown,
)

# What a database raises that is locked, restarted or out of reach.
AWAY = (OperationalError, InterfaceError)
LOOK_SECONDS = 2.0
HEARTBEAT_SECONDS = 1.0
TICK_SECONDS = 0.02
# Less than a pipe holds, so that writing it never waits.
ERROR_BYTES = 2000
LOG_BYTES = 64 << 20
# With which the process of work ends that is to be begun again later; it has written "seconds words".
NOT_NOW_CODE = os.EX_TEMPFAIL
# Why a worker ends a job that is to be begun again.
STOPPING = "stopping"
SLOW = "slow"
# Somebody else has ended it, or begins it again: this worker was declared lost.
GONE = "gone"

logger = logging.getLogger("deepextension.jobs")


class JobsWorker:
    """lane: a jobs.models.Job.Lane, what this worker does first."""

    def __init__(self, lane: int) -> None:
        self.lane = lane
        self.host = socket.gethostname()
        self.mark = process_mark(os.getpid())
        self.is_stopping = False
        self.wakeups: PubSub | None = None

    def work(self) -> None:
        """Until SIGTERM or SIGINT, which gives back what is being done."""
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, self.stop)

        # What all jobs need is imported once, before the forks.
        for kind in kinds():
            if not kind.run:
                continue

            function_of(kind.run)
            for module in kind.needs:
                import_module(module)

        while not self.is_stopping:
            try:
                if not self.work_once():
                    self.wait()
            except AWAY as error:
                logger.warning("database not available, will look again: %s", error)
                close_old_connections()
                time.sleep(LOOK_SECONDS)

    def stop(self, number: int, frame: FrameType | None) -> None:
        self.is_stopping = True

    def work_once(self) -> bool:
        """Do the next job. Returns False where nothing waits."""
        jobs_give_back_unknown(host=self.host, process=self.mark)
        job = job_claim(
            self.lane,
            worker=f"background-{self.lane}",
            host=self.host,
            process=self.mark,
        )
        if job is None:
            return False

        self.see_through(job)
        return True

    def see_through(self, job: Job) -> None:
        pid, failure = _start(job)
        reason, code = self.watch(job, pid)
        error = _read_error(failure)

        # A job that is left as running by a process that is alive would stay so for ever. Each try
        # reads it anew: what a failed one has set was perhaps not stored, and somebody may have
        # asked for a stop in between.
        while True:
            try:
                now = Job.objects.active().filter(number=job.number, attempt=job.attempt).first()
                if now is None:
                    break

                self.conclude(now, reason, code, error)
            except AWAY as error_of_database:
                logger.warning("%s waits for the database: %s", job.key, error_of_database)
                close_old_connections()
                if self.is_stopping:
                    # The job of a worker that is gone is given back.
                    return

                time.sleep(LOOK_SECONDS)

        if not Job.objects.filter(number=job.number).exists():
            # Deleted while it ran, perhaps before it had a log.
            shutil.rmtree(job.directory, ignore_errors=True)

    def watch(self, job: Job, pid: int) -> tuple[str, int]:
        """Returns (why it was ended, "" where it ended by itself; its exit code)."""
        began = heard = time.monotonic()
        loss = HeartbeatLoss()
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return "", os.waitstatus_to_exitcode(status)

            now = time.monotonic()
            reason = self.overdue(job, now - began)
            if not reason and now - heard > HEARTBEAT_SECONDS:
                heard, reason = now, _heartbeat(job, loss)
                _bound_log(job)

            if reason:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return reason, -signal.SIGKILL

            time.sleep(TICK_SECONDS)

    def overdue(self, job: Job, seconds: float) -> str:
        """Why a job that has run for so long is to be ended, or nothing."""
        if self.is_stopping:
            return STOPPING
        if job.limit_seconds is not None and seconds > job.limit_seconds:
            return TOO_LONG

        return SLOW if seconds > LANE_LIMITS.get(job.lane, math.inf) else ""

    def conclude(self, job: Job, reason: str, code: int, error: str) -> None:
        """One try to write how it ended. Where the job has changed since it was read nothing is
        written."""
        is_stopping = job.status == Status.STOPPING
        if code == -signal.SIGXCPU:
            reason = TOO_LONG

        if code == 0 and not error:
            # What is done is done, also where somebody asked for a stop in the last moment.
            job_end(job, Status.FINISHED)
        elif is_stopping:
            job_end(job, Status.STOPPED, reason=CANCELLED)
        elif reason == TOO_LONG:
            job_end(job, Status.FAILED, reason=TOO_LONG)
        elif reason in (STOPPING, GONE):
            job_give_back(job, uncounted=True)
        elif reason == SLOW:
            job_move_on(job)
        elif code == NOT_NOW_CODE:
            seconds, _, words = error.partition(" ")
            job_put_off(job, float(seconds), words)
        elif code == 0:
            # Its kind has recorded what went wrong: another attempt would end alike.
            job_end(job, Status.FAILED, error=error)
        else:
            logger.warning("%s broke off with %s", job.key, code)
            job_failed(job, error or _ending_in_words(code))

    def wait(self) -> None:
        """Until something may wait, a few seconds at most."""
        try:
            if self.wakeups is None:
                self.wakeups = connection().pubsub(  # type: ignore[no-untyped-call]
                    ignore_subscribe_messages=True
                )
                self.wakeups.subscribe(CHANNEL)

            self.wakeups.get_message(timeout=LOOK_SECONDS)
        except RedisError:
            self.wakeups = None
            time.sleep(LOOK_SECONDS)


def _heartbeat(job: Job, loss: HeartbeatLoss) -> str:
    """Say that the job is being worked on. Returns why it is to be ended, or nothing."""
    mine = Job.objects.active().filter(number=job.number, attempt=job.attempt)
    try:
        if not mine.update(heartbeat_at=timezone.now()):
            return GONE

        is_stopping = mine.filter(status=Status.STOPPING).exists()
    except AWAY as error:
        logger.warning("database busy, will try again: %s", error)
        close_old_connections()
        return GONE if loss.must_give_up(job) else ""

    loss.marked_since = None
    return CANCELLED if is_stopping else ""


def _bound_log(job: Job) -> None:
    """What prints without end must not fill the disk."""
    with contextlib.suppress(OSError):
        if job.log_path.stat().st_size > LOG_BYTES:
            job.log_path.write_text(f"[What was printed before is gone: over {LOG_BYTES} bytes]\n")


def _start(job: Job) -> tuple[int, int]:
    """The process that does the job: leader of a group of its own. Returns its id and where to
    read the error that it fails with."""
    # No connection may be shared by two processes.
    connections.close_all()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(job, parent, writing)

    os.close(writing)

    # Both sides do so: whichever comes first.
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpgid(pid, pid)

    return pid, reading


def _read_error(reading: int) -> str:
    """What the process that has ended wrote of its failure, or nothing. Never waits: a program that
    it left behind may still hold the other end."""
    os.set_blocking(reading, False)
    try:
        return os.read(reading, ERROR_BYTES).decode(errors="replace")
    except BlockingIOError:
        return ""
    finally:
        os.close(reading)


def _error_in_words(error: BaseException) -> str:
    """Why work broke off, for whoever looks at the job."""
    if isinstance(error, UserError):
        return error.message
    if (outage := outage_of(error)) is not None:
        return f"{outage.title}."
    if isinstance(error, MemoryError):
        return "It needed more memory than it may use."

    detail = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, ConnectionError | TimeoutError):
        return f"Another server could not be reached ({detail})."

    return f"It ended by a fault of the platform ({detail}). The log has more."


def _ending_in_words(code: int) -> str:
    """code: with which the process ended without a word; negative for a signal."""
    if code == -signal.SIGKILL:
        return "Its process was killed, most likely for lack of memory."
    if code < 0:
        return f"Its process was ended by signal {-code} ({signal.strsignal(-code)})."

    return f"Its process ended with exit code {code}. The log has more."


def _child(job: Job, parent: int, writing: int) -> None:
    """Never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, signal.SIG_DFL)

        die_with_parent(parent, signal.SIGKILL)
        _log_into(job)
        job_is_current(job)
        # What went wrong, where the kind has recorded it, or nothing.
        error = function_of(kind_of(job).run)(*job.arguments)
        os.write(writing, (error or "").encode()[:ERROR_BYTES])
        code = 0
    except NotNow as later:
        logger.info("put off for %s s: %s", later.seconds, later.words)
        os.write(writing, f"{later.seconds} {later.words}".encode()[:ERROR_BYTES])
        code = NOT_NOW_CODE
    except BaseException as error:
        logger.exception("%s failed", job.key)
        os.write(writing, _error_in_words(error).encode()[:ERROR_BYTES])
    finally:
        for stream in (sys.stdout, sys.stderr):
            # A full disk takes no more of the log, and the work is done all the same.
            with contextlib.suppress(OSError):
                stream.flush()

        # Not sys.exit: the worker's own cleanup must not run in this copy of it.
        os._exit(code)


def _log_into(job: Job) -> None:
    """What this process and its programs print goes into the job's log from now on."""
    job.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = os.open(job.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)

    os.close(log)
    logger.info("%s, attempt %s", kind_of(job).title, job.attempt)

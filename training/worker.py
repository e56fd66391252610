"""The worker of the trains queue. Its trains are forked from a warm process beside it, see
training.process.

It tells the platform that it is there through a key in Redis that lapses by itself, with what its
device is."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from django.conf import settings
from django.db import Error, connections
from redis.exceptions import RedisError
from rq.job import Job
from rq.queue import Queue

from core.jobs import Worker
from core.processes import clean_environment, confined, process_is_alive
from core.queue import connection
from engine.guard import die_with_parent
from training.process import Engine

logger = logging.getLogger("deepextension.worker")

KEY = "deepextension:worker:"
LAPSE_SECONDS = 60
STARTING = "deepextension:starting:"
STARTING_SECONDS = 180


class TrainWorker(Worker):
    """One train at a time. The device is measured in a process of its own: this one must not wake
    the GPU."""

    device: dict[str, Any]
    mark: str

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        super().heartbeat(timeout, pipeline=pipeline)
        if getattr(self, "device", None) is not None:
            presence = {
                "name": self.name,
                "host": socket.gethostname(),
                "process": self.mark,
                "device": self.device,
            }

            self.connection.set(f"{KEY}{self.name}", json.dumps(presence), ex=LAPSE_SECONDS)

    def register_death(self) -> None:
        self.connection.delete(f"{KEY}{self.name}")
        super().register_death()  # type: ignore[no-untyped-call]

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        connections.close_all()
        # One that was killed is started again here, and not by a supervisor that a train waits for.
        Engine.warm_up()
        self._parent = os.getpid()
        super().fork_work_horse(job, queue)

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        die_with_parent(self._parent, signal.SIGTERM)
        super().main_work_horse(job, queue)

    def handle_warm_shutdown_request(self) -> None:
        """A shutdown does not wait for hours: the horse is told to save its train and go."""
        if self.horse_pid:
            os.kill(self.horse_pid, signal.SIGTERM)

    def handle_work_horse_killed(self, job: Job, retpid: int, ret_val: int, rusage: Any) -> None:
        """The supervisor itself was killed: nobody else would say how the train ended, so look at
        once."""
        from training.reconcile import lost_trains_close

        try:
            lost_trains_close()
        except Error as error:
            logger.warning("database not available, the watch will see to the train: %s", error)

        connections.close_all()


@contextmanager
def device_alone(device: dict[str, Any], wait: Callable[[], None]) -> Iterator[IO[str]]:
    """Have the device to oneself: one train a device, however many workers are started. `wait` is
    called where another worker of this home has it, before waiting until that one is gone.

    Horse and engine get the lock too, so that it is free only once the last of them has left the
    device."""
    folder = settings.HOME / "locks"
    folder.mkdir(exist_ok=True, mode=0o700)
    name = "-".join((socket.gethostname(), str(device["identity"]), settings.WORKER_SLOT))

    with (folder / re.sub(r"[^\w.-]", "_", name)).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(lock, fcntl.LOCK_EX)

        yield lock


def measure_device() -> dict[str, Any]:
    """What `python -m engine.hardware` prints: engine.hardware.Device, and the `identity` of that
    device."""
    result = subprocess.run(
        [sys.executable, "-m", "engine.hardware"],
        capture_output=True,
        text=True,
        check=True,
        cwd=settings.BASE_DIR,
        env=clean_environment(),
        preexec_fn=confined(),
    )

    device: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return device


def worker_device(name: str) -> str:
    """ "cpu" or "cuda": the device of the worker of that name, "cpu" where it cannot be told."""
    try:
        presence = connection().get(f"{KEY}{name}")
    except RedisError:
        presence = None

    return (
        str(json.loads(presence)["device"].get("kind", "cpu"))
        if isinstance(presence, str | bytes)
        else "cpu"
    )


@dataclass(frozen=True)
class WorkerState:
    """Whether something would run a train now; `message` says why not, in words for a page."""

    ready: bool
    device: dict[str, Any] | None
    message: str
    workers: int = 0
    kinds: tuple[str, ...] = ()
    starting: bool = False

    @property
    def device_kind(self) -> str:
        """ "cpu" or "cuda"; "cpu" where no worker can tell."""
        return str((self.device or {}).get("kind", "cpu"))


def start_announce(seconds: int = STARTING_SECONDS) -> None:
    """Tell the platform that this worker is loading its libraries; pages say so instead of "no
    worker"."""
    try:
        connection().set(f"{STARTING}{socket.gethostname()}:{os.getpid()}", "1", ex=seconds)
    except RedisError:
        logger.debug("the queue is not there yet")


def start_is_over() -> None:
    try:
        connection().delete(f"{STARTING}{socket.gethostname()}:{os.getpid()}")
    except RedisError:
        logger.debug("the queue is not there, and forgets by itself")


def workers_present() -> list[dict[str, Any]]:
    """{name, host, process, device} of each training worker that is there. Raises RedisError."""
    redis = connection()
    found = [
        json.loads(value)
        for value in redis.mget(list(redis.scan_iter(f"{KEY}*", count=1000)))
        if value
    ]

    return [presence for presence in found if is_alive(presence)]


def worker_state() -> WorkerState:
    try:
        alive = workers_present()
    except RedisError:
        return WorkerState(
            False,
            None,
            "The queue cannot be reached. Trains are kept and start when it is back; ask your "
            "operator.",
        )

    if not alive and is_starting():
        return WorkerState(
            False,
            None,
            "The training worker is loading its libraries, which takes about a minute. Waiting "
            "trains start then.",
            starting=True,
        )

    if not alive:
        return WorkerState(
            False,
            None,
            "No training worker is running. Trains wait in the queue until one is; ask your "
            "operator.",
        )

    kinds = tuple(str(presence["device"].get("kind", "cpu")) for presence in alive)
    return WorkerState(True, best_device(alive), "", len(alive), kinds)


def is_starting() -> bool:
    try:
        return next(connection().scan_iter(f"{STARTING}*", count=1000), None) is not None
    except RedisError:
        return False


def is_alive(presence: dict[str, Any]) -> bool:
    """A worker on this host is known by its process; one elsewhere by its key not having lapsed."""
    return presence["host"] != socket.gethostname() or process_is_alive(presence["process"])


def best_device(workers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """A GPU before a CPU: what a form should assume."""
    devices: list[dict[str, Any]] = [presence["device"] for presence in workers]
    return next((device for device in devices if device.get("kind") != "cpu"), devices[0])

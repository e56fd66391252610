"""A worker of a device. Its engines are forked from a warm process, see
jobs.devices.engine_process."""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from django.conf import settings
from django.db import Error, connections
from rq.job import Job
from rq.queue import Queue

from core.processes import clean_environment, confined
from core.queue_jobs import Worker
from engine.process.isolation import die_with_parent
from jobs.devices.engine_process import Engine
from jobs.devices.presence import KEY, LAPSE_SECONDS

logger = logging.getLogger("deepextension.worker")


class DeviceWorker(Worker):
    """One job at a time. The device is measured in a process of its own: this one must not wake
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
        # One that was killed is started again here, and not by a supervisor that a job waits for.
        Engine.warm_up()
        self._parent = os.getpid()
        super().fork_work_horse(job, queue)

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        die_with_parent(self._parent, signal.SIGTERM)
        super().main_work_horse(job, queue)

    def handle_warm_shutdown_request(self) -> None:
        """A shutdown does not wait for hours: the job process is asked to save its work and end."""
        if self.horse_pid:
            os.kill(self.horse_pid, signal.SIGTERM)

    def handle_work_horse_killed(self, job: Job, retpid: int, ret_val: int, rusage: Any) -> None:
        """The supervisor itself was killed, so nothing else would record soon how its job ended."""
        try:
            self.lost_jobs_close()
        except Error as error:
            logger.warning("database not available, the watch will see to the job: %s", error)

        connections.close_all()

    def lost_jobs_close(self) -> None:
        """End the jobs whose supervisor is gone."""
        raise NotImplementedError


@contextmanager
def device_alone(device: dict[str, Any], wait: Callable[[], None]) -> Iterator[IO[str]]:
    """Hold the device exclusively: one job per device, however many workers are started. `wait`
    is called where another worker of this home holds it, before waiting until that one is gone.

    Job process and engine inherit the lock, so that it is free only once the last of them has left
    the device."""
    folder = settings.HOME / "locks"
    folder.mkdir(exist_ok=True, mode=0o700)
    name = "-".join((socket.gethostname(), str(device["identity"]), settings.WORKER_SLOT))
    path = folder / re.sub(r"[^\w.-]", "_", name)

    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(lock, fcntl.LOCK_EX)

        yield lock


def measure_device() -> dict[str, Any]:
    """What `python -m engine.run.hardware` prints: engine.run.hardware.Device, and the `identity` of
    that device."""
    result = subprocess.run(
        [sys.executable, "-m", "engine.run.hardware"],
        capture_output=True,
        text=True,
        check=True,
        cwd=settings.BASE_DIR,
        env=clean_environment(),
        preexec_fn=confined(),
    )

    device: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return device

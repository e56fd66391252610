"""A worker of a device. Its engines are forked from a warm process, see
jobs.devices.engine_process."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
from typing import Any

from django.conf import settings
from django.db import Error, connections
from rq.job import Job
from rq.queue import Queue

from core.devices import Device
from core.queue_jobs import Worker
from engine.process.isolation import die_with_parent
from jobs.devices.cluster_watch import lane_forget, watch_beside
from jobs.devices.engine_process import Engine
from jobs.devices.launchers import RAY
from jobs.devices.presence import (
    KEY,
    LAPSE_SECONDS,
    device_remember,
    presence_remember,
)

logger = logging.getLogger("deepextension.worker")


class DeviceWorker(Worker):
    """One job at a time, on its device; a job of several devices has those of other workers of this
    machine too. `devices`: all of the machine."""

    device: Device
    devices: list[Device]
    mark: str

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        super().heartbeat(timeout, pipeline=pipeline)
        if getattr(self, "device", None) is not None:
            presence = {
                "name": self.name,
                "host": socket.gethostname(),
                "slot": settings.WORKER_SLOT,
                "process": self.mark,
                "device": self.device,
                "devices": len(self.devices),
            }

            presence_remember(presence)
            self.connection.set(f"{KEY}{self.name}", json.dumps(presence), ex=LAPSE_SECONDS)
            device_remember(presence["host"], presence["slot"], self.device["identity"])

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


class ClusterWorker(DeviceWorker):
    """One job at a time, on devices of a cluster, which its watcher announces."""

    presence: dict[str, Any]
    watcher = 0

    def work_beside_cluster(self) -> None:
        """Work until it is told to end, with a watcher beside it."""
        self.presence = {
            "name": self.name,
            "host": socket.gethostname(),
            "slot": settings.WORKER_SLOT,
            "process": self.mark,
            "launcher": RAY,
        }
        presence_remember(self.presence)
        self.watcher = watch_beside(self.presence)
        self.work(logging_level="WARNING")

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        super().heartbeat(timeout, pipeline=pipeline)
        # One that was killed. A fork of this worker has no children of its own.
        with contextlib.suppress(ChildProcessError):
            if self.watcher and os.waitpid(self.watcher, os.WNOHANG)[0]:
                self.watcher = watch_beside(self.presence)

    def register_death(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.watcher, signal.SIGKILL)

        super().register_death()
        lane_forget(self.name)

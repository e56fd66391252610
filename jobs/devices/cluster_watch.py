"""The watcher of a worker of a Ray cluster: it asks the cluster every few seconds what it has, and
announces that.

It is a process of its own beside the worker: a cluster that does not answer must keep nobody from his
heartbeat, and a worker forks, which a thread of its own would not survive."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from typing import Any

from django.conf import settings
from django.db import connections
from redis.exceptions import RedisError

from core.devices import Device
from core.queue import connection
from engine.cluster.state import ClusterAway, ClusterState, cluster_state
from engine.process.isolation import die_with_parent
from jobs.devices.launchers import cluster_name
from jobs.devices.presence import KEY, LANES, LAPSE_SECONDS

LOOK_SECONDS = 5.0
# Of each of three questions.
ANSWER_SECONDS = 3.0
# A cluster that did not answer once may only be busy.
FAILURES_AT_MOST = 1

NO_NODES = "The Ray cluster at {} has no nodes to train on now. Its trains wait."

logger = logging.getLogger("deepextension.worker")


class ClusterWatch:
    """What a worker's watcher announces. presence: {name, host, slot, process} of the worker."""

    def __init__(self, presence: dict[str, Any]) -> None:
        self.presence = presence
        self.name = cluster_name()
        self.devices: list[Device] = []
        # Why it has none.
        self.away = f"The Ray cluster at {self.name} is being asked what it has."
        self.failures = 0

    def look(self) -> None:
        """Ask the cluster."""
        try:
            state = cluster_state(
                settings.RAY_ADDRESS,
                settings.RAY_TOKEN,
                ANSWER_SECONDS,
                cpus_per_device=settings.RAY_CPUS_PER_DEVICE,
            )
        except ClusterAway as error:
            self.failures += 1
            if self.failures > FAILURES_AT_MOST or not self.devices:
                self._lose(error.message)

            return

        if self.away:
            logger.info("the Ray cluster at %s answers", self.name)

        self.failures = 0
        self.devices = devices_of(state)
        self.away = "" if self.devices else NO_NODES.format(self.name)

    def _lose(self, why: str) -> None:
        away = f"{why} Its trains wait."
        if self.away != away:
            logger.warning("%s", away)

        self.devices = []
        self.away = away

    def announce(self) -> None:
        """Raises RedisError."""
        name = self.presence["name"]
        lane = self.presence | {"cluster": self.name, "away": self.away}
        redis = connection()
        redis.set(f"{LANES}{name}", json.dumps(lane), ex=LAPSE_SECONDS)

        if not self.devices:
            redis.delete(f"{KEY}{name}")
            return

        here = {
            "device": self.devices[0],
            "devices": len(self.devices),
            "cluster": {"name": self.name, "devices": self.devices},
        }
        redis.set(f"{KEY}{name}", json.dumps(self.presence | here), ex=LAPSE_SECONDS)

    def run(self) -> None:
        while True:
            try:
                self.look()
                self.announce()
            except RedisError as error:
                logger.debug("the queue is away: %s", error)
            except Exception:
                logger.exception("the Ray cluster could not be looked at")

            time.sleep(LOOK_SECONDS)


def watch_beside(presence: dict[str, Any]) -> int:
    """Start the watcher of this process, which ends with it. Returns its process id."""
    connections.close_all()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid

    try:
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, signal.SIG_DFL)

        die_with_parent(parent, signal.SIGKILL)
        ClusterWatch(presence).run()
    except BaseException:
        logger.exception("the watcher of the Ray cluster ended")
    finally:
        os._exit(1)


def devices_of(state: ClusterState) -> list[Device]:
    """The cluster's devices as core.devices has those of a machine."""
    count = len(state.devices)
    return [
        {
            "kind": device.kind,
            "name": device.name,
            "memory_gb": device.memory_gb,
            "threads": device.threads,
            # What a GPU computes in is half precision in any case; of a node's processors nobody
            # outside knows it.
            "bf16": device.kind == "cuda",
            "identity": device.identity,
            "index": index,
            "label": "",
            "of": count,
            "node": device.ip,
        }
        for index, device in enumerate(state.devices)
    ]


def lane_forget(name: str) -> None:
    """A worker of the cluster ends. Raises RedisError."""
    connection().delete(f"{KEY}{name}", f"{LANES}{name}")

"""A Ray cluster as a machine of this platform.

Its devices are those that the cluster says it has (jobs.devices.cluster_watch). Workers of the cluster,
its lanes, share all of them: each trains one train at a time, on as many devices as that needs. Which of
its devices a train really has the cluster decides; here they are counted, so that trains wait in this
platform's line and not in the cluster's."""

from __future__ import annotations

import os

from django.conf import settings
from redis.exceptions import RedisError

from core.processes import proxy_environment
from jobs.devices.launchers import cluster_is_set, cluster_name
from jobs.devices.presence import WorkerState, lanes_present

STORAGE = "DEEPEXTENSION_STORAGE"
AMAZON = "AWS_"
NOT_SET = (
    "No Ray cluster is set up here any more. Copy the train to run it on another machine, or ask your "
    "operator."
)


def cluster_environment(kind: str = "") -> dict[str, str]:
    """What the engine of a train on the cluster gets in addition: where to hand it in, with which
    token, on which kind of device, "" for any, and where its files are stored."""
    prefixes = [STORAGE]
    if os.environ.get(STORAGE, "").startswith("s3://"):
        # Its key may come from Amazon's own sources.
        prefixes.append(AMAZON)

    storage = {
        name: value for name, value in os.environ.items() if name.startswith(tuple(prefixes))
    }
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": settings.RAY_TOKEN}
    cluster = {"DEEPEXTENSION_RAY_ADDRESS": settings.RAY_ADDRESS}
    numbers = {
        "DEEPEXTENSION_RAY_CPUS_PER_DEVICE": settings.RAY_CPUS_PER_DEVICE,
        "DEEPEXTENSION_RAY_RETURN_SECONDS": settings.RAY_RETURN_SECONDS,
        "DEEPEXTENSION_RAY_LEASE_SECONDS": settings.RAY_LEASE_SECONDS,
    }
    cluster |= {name: str(number) for name, number in numbers.items() if number}
    if kind:
        cluster["DEEPEXTENSION_RAY_KIND"] = kind

    return cluster | (token if settings.RAY_TOKEN else {}) | storage | proxy_environment()


def cluster_absence(state: WorkerState) -> str:
    """Why no train starts on the cluster now, in a sentence; "" where it is there, or where the queue
    is away, which is said elsewhere."""
    if not cluster_is_set():
        return NOT_SET

    name = cluster_name()
    if any(machine.is_cluster and machine.host == name for machine in state.machines):
        return ""

    try:
        lanes = [lane for lane in lanes_present() if lane["cluster"] == name]
    except RedisError:
        return ""

    if not lanes:
        return f"No worker of the Ray cluster at {name} is running. Its trains wait."

    return str(lanes[0]["away"])

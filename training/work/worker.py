"""The workers of trains."""

from __future__ import annotations

from jobs.devices.worker import ClusterWorker, DeviceWorker
from training.work.reconcile import lost_trains_close


class TrainWorker(DeviceWorker):
    def lost_jobs_close(self) -> None:
        lost_trains_close()


class ClusterTrainWorker(TrainWorker, ClusterWorker):
    """Of a Ray cluster."""

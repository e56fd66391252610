"""The worker of the trains queue."""

from __future__ import annotations

from jobs.devices.worker import DeviceWorker
from training.work.reconcile import lost_trains_close


class TrainWorker(DeviceWorker):
    def lost_jobs_close(self) -> None:
        lost_trains_close()

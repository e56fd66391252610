from __future__ import annotations

import os
import subprocess
import time
from typing import Any, TypeVar

import django_rq
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rq.serializers import JSONSerializer

from core.database_version import newer_database
from core.devices import Device, devices_measure
from core.processes import SUPERVISED, die_with_supervisor, process_mark
from core.queue import MONITORING_SECONDS, connection
from jobs.devices.engine_process import Engine
from jobs.devices.launchers import cluster_is_set, cluster_name
from jobs.devices.locks import WorkerLock
from jobs.devices.machines import machine_note
from jobs.devices.presence import start_announce, start_is_over
from training.work.worker import ClusterTrainWorker, TrainWorker

# How long one waits whose device is gone, before it ends and is started again.
MISSING_SECONDS = 60


W = TypeVar("W", bound=TrainWorker)


def worker_make(kind: type[W], queue: str) -> W:
    worker = kind(
        [django_rq.get_queue(queue)],
        connection=connection(),
        serializer=JSONSerializer,
        worker_ttl=30,
        job_monitoring_interval=MONITORING_SECONDS,
    )
    worker.mark = process_mark(os.getpid())
    return worker


class Command(BaseCommand):
    help = (
        "Run a worker that trains: one train at a time on one device, forked from a warm process "
        "that has imported torch. A machine needs one for each of its devices."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--device",
            type=int,
            help="Which of this machine's devices, counted from 0 (default: the first that has no "
            "worker).",
        )
        parser.add_argument(
            "--cluster",
            action="store_true",
            help="Train on the Ray cluster of DEEPEXTENSION_RAY_ADDRESS: one train at a time, on any of "
            "its devices.",
        )
        parser.add_argument(
            "--lane",
            type=int,
            help="Which of the DEEPEXTENSION_RAY_LANES workers of the cluster, counted from 0 (default: "
            "the first that is not there).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        die_with_supervisor()
        if words := newer_database():
            raise CommandError(words)

        os.umask(0o077)
        if options["cluster"]:
            self.handle_cluster(options["lane"])
            return

        start_announce()
        devices = self.measured()
        device, lock = self.choose(devices, options["device"])
        machine_note(devices)
        # Once more: the queue may have come up meanwhile.
        start_announce()
        label = f" ({device['label']})" if device["label"] else ""
        self.stdout.write(f"Training on {device['name']}{label}. Loading libraries …")
        warm = Engine.warm_up()
        worker = worker_make(TrainWorker, settings.TRAINS_QUEUE)
        worker.device = device
        worker.devices = devices

        if not lock.is_held:
            self.say_that_it_waits()
            lock.wait()

        warm.lock = lock.descriptor
        self.stdout.write("Ready.")
        start_is_over()
        worker.work(logging_level="WARNING")

    def handle_cluster(self, lane: int | None) -> None:
        if not cluster_is_set():
            raise CommandError("DEEPEXTENSION_RAY_ADDRESS names no Ray cluster.")

        lock = self.choose_lane(lane)
        self.stdout.write(f"Training on the Ray cluster at {cluster_name()}.")
        Engine.is_light = True
        warm = Engine.warm_up()
        worker = worker_make(ClusterTrainWorker, settings.CLUSTER_QUEUE)

        if not lock.is_held:
            self.stdout.write(
                "Another worker has this lane. This one begins when that one is gone."
            )
            lock.wait()

        warm.lock = lock.descriptor
        self.stdout.write("Ready.")
        worker.work_beside_cluster()

    def choose_lane(self, lane: int | None) -> WorkerLock:
        """The lane's lock; where all have a worker, that of the first."""
        for index in range(settings.RAY_LANES) if lane is None else [lane]:
            lock = WorkerLock({"identity": f"cluster-{index}"})
            if lock.is_held or lane is not None:
                return lock

            lock.close()

        return WorkerLock({"identity": "cluster-0"})

    def measured(self) -> list[Device]:
        try:
            return devices_measure()
        except subprocess.CalledProcessError as error:
            self.stderr.write(str(error.stderr))
            self.wait_for_a_device()
            raise CommandError("The devices of this machine cannot be measured.") from error

    def choose(self, devices: list[Device], index: int | None) -> tuple[Device, WorkerLock]:
        """The device, and its lock from now on: others that are started at the same time choose
        another one. Where all have a worker, that of the first is waited for later."""
        if index is not None:
            if not 0 <= index < len(devices):
                have = ", ".join(str(device["index"]) for device in devices)
                self.wait_for_a_device()
                raise CommandError(f"This machine has no device {index}. It has: {have}.")

            return devices[index], WorkerLock(devices[index])

        for device in devices:
            lock = WorkerLock(device)
            if lock.is_held:
                return device, lock

            lock.close()

        return devices[0], WorkerLock(devices[0])

    def wait_for_a_device(self) -> None:
        """Under the platform's supervisor, which starts this program again at once, and for ever."""
        start_is_over()
        if os.environ.get(SUPERVISED):
            time.sleep(MISSING_SECONDS)

    def say_that_it_waits(self) -> None:
        self.stdout.write(
            "Another worker trains on this device. This one begins when that one is gone; to have "
            "both train at once, "
            "give it a DEEPEXTENSION_WORKER_SLOT of its own."
        )

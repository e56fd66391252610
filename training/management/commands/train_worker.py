from __future__ import annotations

import os
from typing import Any

import django_rq
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rq.serializers import JSONSerializer

from core.database_version import newer_database
from core.devices import Device, devices_measure
from core.processes import die_with_supervisor, process_mark
from core.queue import MONITORING_SECONDS, connection
from jobs.devices.engine_process import Engine
from jobs.devices.locks import device_alone, device_has_worker
from jobs.devices.machines import machine_note
from jobs.devices.presence import start_announce, start_is_over
from training.work.worker import TrainWorker


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

    def handle(self, *args: Any, **options: Any) -> None:
        die_with_supervisor()
        if words := newer_database():
            raise CommandError(words)

        os.umask(0o077)
        start_announce()
        devices = devices_measure()
        device = self.choose(devices, options["device"])
        machine_note(devices)
        # Once more: the queue may have come up meanwhile.
        start_announce()
        label = f" ({device['label']})" if device["label"] else ""
        self.stdout.write(f"Training on {device['name']}{label}. Loading libraries …")
        warm = Engine.warm_up()
        worker = TrainWorker(
            [django_rq.get_queue(settings.TRAINS_QUEUE)],
            connection=connection(),
            serializer=JSONSerializer,
            worker_ttl=30,
            job_monitoring_interval=MONITORING_SECONDS,
        )

        worker.device = device
        worker.devices = devices
        worker.mark = process_mark(os.getpid())

        with device_alone(device, self.say_that_it_waits) as lock:
            warm.lock = lock.fileno()
            self.stdout.write("Ready.")
            start_is_over()
            worker.work(logging_level="WARNING")

    def choose(self, devices: list[Device], index: int | None) -> Device:
        if index is None:
            return next((device for device in devices if not device_has_worker(device)), devices[0])

        if not 0 <= index < len(devices):
            have = ", ".join(str(device["index"]) for device in devices)
            raise CommandError(f"This machine has no device {index}. It has: {have}.")

        return devices[index]

    def say_that_it_waits(self) -> None:
        self.stdout.write(
            "Another worker trains on this device. This one begins when that one is gone; to have "
            "both train at once, "
            "give it a DEEPEXTENSION_WORKER_SLOT of its own."
        )

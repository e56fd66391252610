from __future__ import annotations

import os
from typing import Any

import django_rq
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from rq.serializers import JSONSerializer

from core.database_version import newer_database
from core.processes import die_with_supervisor, process_mark
from core.queue import MONITORING_SECONDS, connection
from jobs.devices.engine_process import Engine
from jobs.devices.presence import start_announce, start_is_over
from jobs.devices.worker import device_alone, measure_device
from training.work.worker import TrainWorker


class Command(BaseCommand):
    help = (
        "Run the worker that trains: one train at a time, forked from a warm process that has "
        "imported torch."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        die_with_supervisor()
        if words := newer_database():
            raise CommandError(words)

        os.umask(0o077)
        start_announce()
        device = measure_device()
        # Once more: the queue may have come up meanwhile.
        start_announce()
        self.stdout.write(f"Training on {device['name']}. Loading libraries …")
        warm = Engine.warm_up()
        worker = TrainWorker(
            [django_rq.get_queue(settings.TRAINS_QUEUE)],
            connection=connection(),
            serializer=JSONSerializer,
            worker_ttl=30,
            job_monitoring_interval=MONITORING_SECONDS,
        )

        worker.device = device
        worker.mark = process_mark(os.getpid())

        with device_alone(device, self.say_that_it_waits) as lock:
            warm.lock = lock.fileno()
            self.stdout.write("Ready.")
            start_is_over()
            worker.work(logging_level="WARNING")

    def say_that_it_waits(self) -> None:
        self.stdout.write(
            "Another worker trains on this device. This one begins when that one is gone; to have "
            "both train at once, "
            "give it a DEEPEXTENSION_WORKER_SLOT of its own."
        )

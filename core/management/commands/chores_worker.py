from __future__ import annotations

import os
from typing import Any

import django_rq
from django.conf import settings
from django.core.management.base import BaseCommand
from rq.serializers import JSONSerializer

from core.jobs import Worker
from core.processes import die_with_supervisor
from core.queue import MONITORING_SECONDS, connection


class Command(BaseCommand):
    help = "Run the worker for dataset checks, model imports and token counts, which must not wait behind a train."

    def handle(self, *args: Any, **options: Any) -> None:
        die_with_supervisor()
        os.umask(0o077)
        worker = Worker(
            [django_rq.get_queue(settings.CHORES_QUEUE)],
            connection=connection(),
            serializer=JSONSerializer,
            worker_ttl=30,
            job_monitoring_interval=MONITORING_SECONDS,
        )
        worker.work(logging_level="WARNING")

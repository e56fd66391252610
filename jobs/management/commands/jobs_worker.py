from __future__ import annotations

import os
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from core.database_version import newer_database
from core.processes import die_with_supervisor
from jobs.models import Job
from jobs.worker import JobsWorker

# A device is for workers of trains.
LANES = [lane.value for lane in Job.Lane if lane != Job.Lane.DEVICE]


class Command(BaseCommand):
    help = "Run a worker for background work: dataset checks, token counts, model imports."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--lane",
            type=int,
            choices=LANES,
            default=Job.Lane.LONG.value,
            help="0: only work of seconds. 1: work of minutes, too. 2: everything (default).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        die_with_supervisor()
        if problem := newer_database():
            raise CommandError(problem)

        os.umask(0o077)
        JobsWorker(options["lane"]).work()

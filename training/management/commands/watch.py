from __future__ import annotations

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import close_old_connections

from core.database_version import newer_database
from core.processes import die_with_supervisor
from training.work.reconcile import reconcile


class Command(BaseCommand):
    help = (
        "Housekeeping: end trains whose worker is gone, and notify workers again of trains that "
        "the queue forgot."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--every",
            type=float,
            default=5.0,
            help="Seconds between two rounds (default: 5).",
        )
        parser.add_argument("--once", action="store_true", help="Make one round and leave.")

    def handle(self, *args: Any, **options: Any) -> None:
        die_with_supervisor()
        if words := newer_database():
            raise CommandError(words)

        while True:
            reconcile()
            close_old_connections()
            if options["once"]:
                return

            time.sleep(options["every"])

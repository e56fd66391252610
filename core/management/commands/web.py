from __future__ import annotations

import os
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from core.processes import die_with_supervisor


class Command(BaseCommand):
    help = "Run the web server."

    def handle(self, *args: Any, **options: Any) -> None:
        die_with_supervisor()
        os.umask(0o077)
        host = f"[{settings.HOST}]" if ":" in settings.HOST else settings.HOST
        # exec: signals from the process manager reach gunicorn itself.
        os.execv(  # noqa: S606
            sys.executable,
            [
                sys.executable,
                *("-m", "gunicorn", "deepextension.wsgi"),
                *("--bind", f"{host}:{settings.PORT}"),
                # Threads: uploads and downloads take long and mostly wait.
                *("--worker-class", "gthread", "--workers", str(settings.WEB_PROCESSES)),
                *("--threads", str(settings.WEB_THREADS)),
                *("--limit-request-line", "8190"),
                *("--access-logfile", "-" if settings.DEBUG else os.devnull),
            ],
        )

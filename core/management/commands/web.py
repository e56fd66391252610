from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.core.wsgi import get_wsgi_application
from django.db import connections
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]

from core.processes import die_with_supervisor
from core.starting import starting_page_leave


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn in this very process, which has loaded everything by now: its workers are forked from it and answer at
    once, and signals from the process manager reach it."""

    def load_config(self) -> None:
        host = f"[{settings.HOST}]" if ":" in settings.HOST else settings.HOST
        for name, value in {
            "bind": f"{host}:{settings.PORT}",
            # Threads: uploads and downloads take long and mostly wait.
            "worker_class": "gthread",
            "workers": settings.WEB_PROCESSES,
            "threads": settings.WEB_THREADS,
            "preload_app": True,
            "limit_request_line": 8190,
            # Of all servers of one person there would be one.
            "control_socket_disable": True,
            "accesslog": "-" if settings.DEBUG else None,
            "errorlog": "-",
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Callable[..., Any]:
        application = get_wsgi_application()
        # No worker may share another's.
        connections.close_all()
        return application


class Command(BaseCommand):
    help = "Run the web server."

    def handle(self, *args: Any, **options: Any) -> None:
        die_with_supervisor()
        os.umask(0o077)
        starting_page_leave()
        Server().run()

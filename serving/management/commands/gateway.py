from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from core.database_version import newer_database
from core.folder_lock import folder_lock
from core.processes import die_with_supervisor
from serving.gateway.app import app_run
from serving.gateway.gateway import Gateway


class Command(BaseCommand):
    help = "Run the gateway: it starts and ends the model servers that answer people and programs."

    def handle(self, *args: Any, **options: Any) -> None:
        die_with_supervisor()
        if problem := newer_database():
            raise CommandError(problem)

        os.umask(0o077)
        folder = settings.GATEWAY_SOCKET.parent
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with folder_lock(folder) as locked:
            if not locked:
                raise CommandError(f"A gateway of {settings.HOME} runs already.")

            asyncio.run(_serve())


async def _serve() -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stopped.set)

    await app_run(Gateway(), settings.GATEWAY_SOCKET, stopped)

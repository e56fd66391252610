from __future__ import annotations

import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from core.serving import CannotServe, address, platform


class Command(BaseCommand):
    help = "Run the whole platform on this machine until Ctrl-C."

    def handle(self, *args: Any, **options: Any) -> None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with platform(self.stdout.write) as server:
                self.stdout.write(f"DeepExtension is at {address()} (Ctrl-C stops it).")
                server.wait()
        except CannotServe as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            self.stdout.write("Stopped.")

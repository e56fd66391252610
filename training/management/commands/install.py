from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import StringIO
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from core.database_version import newer_database
from core.processes import ADMIN_PASSWORD
from core.serving import CannotServe, home_lock
from core.starting import StartingPage, starting_page
from methods.services import methods_install
from models_app.management.commands.smollm2_install import SLUG
from models_app.models import BaseModel

STAMP = ".collected"


class Command(BaseCommand):
    help = (
        "Make this home ready: database, methods, base model, front-end files, first account. "
        "May be repeated."
    )
    page: StartingPage | None = None

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--page",
            action="store_true",
            help="Meanwhile answer browsers with a page that says what is done: the platform is "
            "served next.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        os.umask(0o077)
        try:
            with home_lock():
                self.install(shows_page=options["page"])
        except CannotServe as error:
            raise CommandError(str(error)) from error

    def install(self, *, shows_page: bool) -> None:
        if words := newer_database():
            raise CommandError(words)

        # `make run` serves next: a browser that is early gets a page about what is being done.
        with starting_page() if shows_page else nullcontext() as page:
            self.page = page
            with self.phase("Setting up the database", is_needed=migrations_are_missing()):
                call_command("migrate", verbosity=0, interactive=False)

            methods_install()
            with self.phase("Collecting the front-end files", is_needed=static_is_stale()):
                collect_static()

            with self.phase(
                "Preparing the base model SmolLM2-135M (about a minute)",
                is_needed=model_is_missing(),
            ):
                call_command("smollm2_install", stdout=StringIO())

            self.create_admin()

    @contextmanager
    def phase(self, title: str, *, is_needed: bool) -> Iterator[None]:
        """Say what is done and how long it took; nothing where there is nothing to do."""
        if not is_needed:
            yield
            return

        if self.page is not None:
            self.page.phase = f"{title} …"

        began = time.monotonic()
        self.stdout.write(f"{title} … ", ending="")
        self.stdout.flush()
        yield
        self.stdout.write(f"done in {time.monotonic() - began:.0f} s")

    def create_admin(self) -> None:
        users = get_user_model()
        if users.objects.filter(is_superuser=True).exists():
            os.environ.pop(ADMIN_PASSWORD, None)
            return

        # Removed, so that no process that is started from here inherits it.
        chosen = os.environ.pop(ADMIN_PASSWORD, "")
        password = chosen or secrets.token_urlsafe(12)
        users.objects.create_superuser("admin", password=password)

        if chosen:
            self.stdout.write(
                "Account admin made, with the password from DEEPEXTENSION_ADMIN_PASSWORD."
            )
            return

        self.stdout.write(
            f"\n    Sign in as   admin\n    Password     {password}\n\n    It is shown this once.\n"
        )


def migrations_are_missing() -> bool:
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def model_is_missing() -> bool:
    model = BaseModel.objects.filter(slug=SLUG, status=BaseModel.Status.READY).first()
    return model is None or not model.path.is_dir()


def static_is_stale() -> bool:
    stamp = settings.STATIC_ROOT / STAMP
    return not stamp.exists() or stamp.read_text() != static_state()


def static_state() -> str:
    """A digest over names, sizes and times of all front-end files."""
    digest = hashlib.sha256()
    for finder in get_finders():
        files = sorted(finder.list([]), key=lambda file: file[0])
        for name, storage in files:
            status = Path(storage.path(name)).stat()
            line = f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(line.encode())

    return digest.hexdigest()


def collect_static() -> bool:
    """Whether there was something to do: collecting hashes and compresses every file, so not
    without need."""
    if not static_is_stale():
        return False

    state = static_state()
    call_command("collectstatic", verbosity=0, interactive=False, clear=True)
    (settings.STATIC_ROOT / STAMP).write_text(state)

    return True

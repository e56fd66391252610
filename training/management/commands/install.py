from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from core.database_version import newer_database
from core.serving import CannotServe, home_lock
from methods.services import methods_install

STAMP = ".collected"


class Command(BaseCommand):
    help = "Make this home ready: database, methods, base model, front-end files, first account. May be repeated."

    def handle(self, *args: Any, **options: Any) -> None:
        os.umask(0o077)
        try:
            with home_lock():
                self.install()
        except CannotServe as error:
            raise CommandError(str(error)) from error

    def install(self) -> None:
        if words := newer_database():
            raise CommandError(words)
        call_command("migrate", verbosity=0, interactive=False)
        methods_install()
        if collect_static():
            self.stdout.write("Collected the front-end files.")
        call_command("smollm2_install", stdout=self.stdout)
        self.create_admin()

    def create_admin(self) -> None:
        users = get_user_model()
        if users.objects.filter(is_superuser=True).exists():
            return
        given = os.environ.get("DEEPEXTENSION_ADMIN_PASSWORD", "")
        password = given or secrets.token_urlsafe(12)
        users.objects.create_superuser("admin", password=password)
        if given:
            self.stdout.write("Account admin made, with the password from DEEPEXTENSION_ADMIN_PASSWORD.")
            return
        self.stdout.write(f"\n    Sign in as   admin\n    Password     {password}\n\n    It is shown this once.\n")


def static_state() -> str:
    """A digest over names, sizes and times of all front-end files."""
    digest = hashlib.sha256()
    for finder in get_finders():
        for name, storage in sorted(finder.list([]), key=lambda found: found[0]):
            facts = Path(storage.path(name)).stat()
            digest.update(f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def collect_static() -> bool:
    """Whether there was something to do: collecting hashes and compresses every file, so not without need."""
    stamp = settings.STATIC_ROOT / STAMP
    state = static_state()
    if stamp.exists() and stamp.read_text() == state:
        return False
    call_command("collectstatic", verbosity=0, interactive=False, clear=True)
    stamp.write_text(state)
    return True

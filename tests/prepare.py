"""python -m tests.prepare: make the home that the environment names ready for a test platform.

A process of its own, since it works on that home's database and not on the test runner's.
"""

from typing import Any

import django

django.setup()

from django.contrib.auth import get_user_model
from django.core.management import call_command

from core.store import models_folder
from methods.services import methods_install
from models_app import importing
from models_app.models import BaseModel
from models_app.services import model_add_folder
from tests.live import PASSWORDS
from training.management.commands.install import collect_static

# Where whoever starts this has put the model.
INBOX = models_folder().parent / "models-inbox" / "tiny"


def without_trial(*arguments: str, **options: Any) -> dict[str, Any]:
    """In place of the program that tries whether transformers can use the model: it does, and the
    import of libraries takes longer than all the rest here."""
    assert arguments[:2] == ("engine.programs.convert", "try"), arguments
    return {"example": ""}


def main() -> None:
    call_command("migrate", verbosity=0, interactive=False)
    methods_install()
    collect_static()
    users = get_user_model().objects
    for name, password in PASSWORDS.items():
        (users.create_superuser if name == "olga" else users.create_user)(name, password=password)
    model = model_add_folder(owner=None, reference=str(INBOX), name="Tiny")
    importing.program_run = without_trial
    importing.model_import(model.pk)
    model.refresh_from_db()
    BaseModel.objects.filter(pk=model.pk).update(shared=True)
    assert (model.slug, model.status) == ("tiny", "ready"), model.error


main()

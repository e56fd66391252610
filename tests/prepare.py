"""python -m tests.prepare: make the home that the environment names ready for a test platform.

A process of its own, since it works on that home's database and not on the test runner's.
"""

import django

django.setup()

from django.contrib.auth import get_user_model
from django.core.management import call_command

from core.store import models_folder
from methods.services import methods_install
from models_app.importing import model_import
from models_app.models import BaseModel
from models_app.services import model_add_folder
from tests.live import PASSWORDS
from tests.tiny import tiny_model
from training.management.commands.install import collect_static


def main() -> None:
    call_command("migrate", verbosity=0, interactive=False)
    methods_install()
    collect_static()
    users = get_user_model().objects
    for name, password in PASSWORDS.items():
        (users.create_superuser if name == "olga" else users.create_user)(name, password=password)
    inbox = models_folder().parent / "models-inbox" / "tiny"
    inbox.mkdir(parents=True)
    tiny_model(inbox)
    model = model_add_folder(owner=None, reference=str(inbox), name="Tiny")
    model_import(model.pk)
    model.refresh_from_db()
    BaseModel.objects.filter(pk=model.pk).update(shared=True)
    assert (model.slug, model.status) == ("tiny", "ready"), model.error


main()

from collections.abc import Callable
from typing import Any

from django.db import migrations

from core.store import path_made_relative, path_made_whole


def relative(text: str) -> str:
    return path_made_relative(text, "models-inbox")


def change(apps: Any, to: Callable[[str], str]) -> None:
    for model in apps.get_model("models_app", "BaseModel").objects.filter(source="folder"):
        model.reference = to(model.reference)
        model.save(update_fields=["reference"])


def forwards(apps: Any, schema_editor: Any) -> None:
    change(apps, relative)


def backwards(apps: Any, schema_editor: Any) -> None:
    change(apps, path_made_whole)


class Migration(migrations.Migration):
    dependencies = [("models_app", "0001_initial")]

    operations = [migrations.RunPython(forwards, backwards)]

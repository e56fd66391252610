from collections.abc import Callable
from typing import Any

from django.db import migrations

from core.store import make_path_relative, make_path_absolute


def relative(text: str) -> str:
    return make_path_relative(text, "models-inbox")


def change(apps: Any, to: Callable[[str], str]) -> None:
    for model in apps.get_model("models_app", "BaseModel").objects.filter(source="folder"):
        model.reference = to(model.reference)
        model.save(update_fields=["reference"])


def forwards(apps: Any, schema_editor: Any) -> None:
    change(apps, relative)


def backwards(apps: Any, schema_editor: Any) -> None:
    change(apps, make_path_absolute)


class Migration(migrations.Migration):
    dependencies = [("models_app", "0001_initial")]

    operations = [migrations.RunPython(forwards, backwards)]

from collections.abc import Callable
from typing import Any

from django.db import migrations, models

from core.store import make_path_relative, make_path_absolute


def relative(text: str) -> str:
    return make_path_relative(text, "models")


def change(apps: Any, to: Callable[[str], str]) -> None:
    for lengths in apps.get_model("datasets_app", "TokenLengths").objects.only("model_path"):
        lengths.model_path = to(lengths.model_path)
        lengths.save(update_fields=["model_path"])

    datasets = apps.get_model("datasets_app", "Dataset").objects.exclude(repair={})
    for dataset in datasets.only("repair"):
        if path := dataset.repair.get("model_path"):
            dataset.repair["model_path"] = to(path)
            dataset.save(update_fields=["repair"])


def forwards(apps: Any, schema_editor: Any) -> None:
    change(apps, relative)


def backwards(apps: Any, schema_editor: Any) -> None:
    change(apps, make_path_absolute)


class Migration(migrations.Migration):
    dependencies = [("datasets_app", "0002_template_notes")]

    operations = [
        migrations.AlterField(
            model_name="tokenlengths",
            name="model_path",
            field=models.CharField(
                help_text="A model's folder with that tokenizer, below the home.", max_length=500
            ),
        ),
        migrations.RunPython(forwards, backwards),
    ]

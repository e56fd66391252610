from collections.abc import Callable
from typing import Any

from django.db import migrations, models

from core.store import make_path_relative, make_path_absolute


def relative(text: str) -> str:
    return make_path_relative(text, "methods")


def change(apps: Any, to: Callable[[str], str]) -> None:
    for function in apps.get_model("methods", "RewardFunction").objects.all():
        function.file = to(function.file)
        function.save(update_fields=["file"])

    for name in ("TrainingMethod", "MethodVersion"):
        for row in apps.get_model("methods", name).objects.filter(recipe="custom"):
            if script := row.program.get("script"):
                row.program["script"] = to(script)
                row.save(update_fields=["program"])


def forwards(apps: Any, schema_editor: Any) -> None:
    change(apps, relative)


def backwards(apps: Any, schema_editor: Any) -> None:
    change(apps, make_path_absolute)


class Migration(migrations.Migration):
    dependencies = [("methods", "0001_initial")]

    operations = [
        migrations.AlterField(
            model_name="rewardfunction",
            name="file",
            field=models.CharField(help_text="Its path, below the home.", max_length=500),
        ),
        migrations.RunPython(forwards, backwards),
    ]

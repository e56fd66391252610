from collections import Counter

import django.db.models.deletion
from django.db import migrations, models


def fill(apps, schema_editor):
    """Trained models of before name their base model in `trained_from` alone. They are versions of their name in the
    order in which they were made."""
    rows = apps.get_model("models_app", "BaseModel").objects
    ids = set(rows.values_list("pk", flat=True))
    versions = Counter()

    for model in rows.filter(source="train").order_by("pk"):
        base = model.trained_from.get("base_model", {}).get("id")
        key = (model.owner_id, model.name.lower())
        versions[key] += 1
        rows.filter(pk=model.pk).update(parent_id=base if base in ids else None, version=str(versions[key]))


class Migration(migrations.Migration):

    dependencies = [
        ('models_app', '0004_trained_models'),
    ]

    operations = [
        migrations.AddField(
            model_name='basemodel',
            name='parent',
            field=models.ForeignKey(blank=True, help_text='Of a model that was trained here: the model that its train started from.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='children', to='models_app.basemodel'),
        ),
        migrations.AddField(
            model_name='basemodel',
            name='version',
            field=models.CharField(blank=True, help_text='Of a model that was trained here: counts up under its name.', max_length=20),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]

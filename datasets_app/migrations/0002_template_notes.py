from django.db import migrations, models


def counts_forget(apps, schema_editor):
    """Counts of earlier versions know neither what templates do to the rows nor where answers begin now: they are made
    anew where somebody asks for them."""
    apps.get_model("datasets_app", "TokenLengths").objects.all().delete()


class Migration(migrations.Migration):

    dependencies = [
        ("datasets_app", "0001_initial"),
    ]

    operations = [
        migrations.RunPython(counts_forget, migrations.RunPython.noop),
        migrations.AddField(
            model_name="tokenlengths",
            name="notes",
            field=models.JSONField(
                default=dict, help_text="What the chat template does to the rows, as engine.chat.row_notes.RowNotes."
            ),
        ),
    ]

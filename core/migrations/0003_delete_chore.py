"""Background work is a kind of job, see jobs/migrations/0002_background_work.py."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("core", "0002_chore_retries"),
        ("jobs", "0002_background_work"),
    ]

    operations = [
        migrations.DeleteModel(name="Chore"),
    ]

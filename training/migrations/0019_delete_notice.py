"""Notices are of jobs, see jobs/migrations/0003_notice.py."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("training", "0018_trains_are_jobs"),
        ("jobs", "0003_notice"),
    ]

    operations = [
        migrations.DeleteModel(name="Notice"),
    ]

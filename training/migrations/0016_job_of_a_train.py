"""A train becomes a kind of job, in three steps, since PostgreSQL alters no table in the transaction that has changed its
rows: a column for its job, the jobs themselves, and the columns that moved."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("jobs", "0001_initial"),
        ("training", "0015_names_in_code"),
    ]

    operations = [
        migrations.AddField(
            model_name="trainrun",
            name="job",
            field=models.OneToOneField(
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="trainrun",
                to="jobs.job",
            ),
        ),
    ]

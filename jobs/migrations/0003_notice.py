"""Notices are of jobs, and not of trains alone. Those that there are keep their ids, by which receivers know them."""

import uuid

import django.db.models.deletion
import django.utils.timezone
from django.core.management.color import no_style
from django.db import migrations, models

STATUS = [
    ("queued", "Waiting"),
    ("running", "Running"),
    ("stopping", "Stopping"),
    ("finished", "Succeeded"),
    ("failed", "Failed"),
    ("stopped", "Stopped"),
]


def copy_notices(apps, schema_editor):
    connection = schema_editor.connection
    same = "notice.id, notice.uuid, notice.attempt, notice.status, notice.way, notice.tries, notice.next_at, notice.sent_at"
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO jobs_notice (id, uuid, attempt, status, way, tries, next_at, sent_at, error, job_id) "
            f"SELECT {same}, notice.error, run.job_id "
            "FROM training_notice notice JOIN training_trainrun run ON run.id = notice.run_id"
        )
        for statement in connection.ops.sequence_reset_sql(no_style(), [apps.get_model("jobs", "Notice")]):
            cursor.execute(statement)


class Migration(migrations.Migration):
    dependencies = [
        ("jobs", "0002_background_work"),
        ("training", "0018_trains_are_jobs"),
    ]

    operations = [
        migrations.CreateModel(
            name="Notice",
            fields=[
                (
                    "id",
                    models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
                ),
                ("uuid", models.UUIDField(default=uuid.uuid4, editable=False, unique=True)),
                ("attempt", models.PositiveIntegerField()),
                ("status", models.CharField(choices=STATUS, max_length=10)),
                ("way", models.CharField(choices=[("mail", "E-mail"), ("webhook", "Webhook")], max_length=10)),
                ("tries", models.PositiveIntegerField(default=0)),
                ("next_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("sent_at", models.DateTimeField(blank=True, null=True)),
                ("error", models.CharField(blank=True, max_length=500)),
                (
                    "job",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="notices", to="jobs.job"
                    ),
                ),
            ],
            options={
                "ordering": ["pk"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("job", "attempt", "way"), name="one_notice_a_job_attempt_and_way"
                    )
                ],
            },
        ),
        migrations.RunPython(copy_notices),
    ]

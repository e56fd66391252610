"""A job for each train, with the train's number, so that what refers to one train refers to the same one afterwards."""

from django.core.management.color import no_style
from django.db import migrations

SAME = (
    "name", "idempotency_key", "priority", "place", "status", "attempt", "resumes", "phase", "discards", "events_offset",
    "error_code", "error", "error_advice", "worker", "host", "process", "created_at", "started_at", "finished_at",
    "heartbeat_at", "earlier_seconds", "owner_id", "shared",
)


def make_jobs(apps, schema_editor):
    connection = schema_editor.connection
    columns = ", ".join(connection.ops.quote_name(name) for name in SAME)

    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO jobs_job (number, kind, arguments, lane, starts_after_id, {columns}) "
            f"SELECT id, 'train', '[]', 3, after_id, {columns} FROM training_trainrun"
        )
        cursor.execute("UPDATE training_trainrun SET job_id = id")
        for statement in connection.ops.sequence_reset_sql(no_style(), [apps.get_model("jobs", "Job")]):
            cursor.execute(statement)


class Migration(migrations.Migration):
    dependencies = [("training", "0016_job_of_a_train")]

    operations = [migrations.RunPython(make_jobs)]

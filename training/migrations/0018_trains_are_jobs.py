"""What a train shares with every other job lies in its job from now on."""

import django.db.models.deletion
from django.db import migrations, models

MOVED = (
    "attempt", "created_at", "discards", "earlier_seconds", "error", "error_advice", "error_code", "events_offset",
    "finished_at", "heartbeat_at", "host", "idempotency_key", "name", "owner", "phase", "place", "priority", "process",
    "resumes", "shared", "started_at", "starts_after", "status", "worker",
)


class ExtendJob(migrations.operations.base.Operation):
    """TrainRun extends Job. The link between the tables is there; only what Django knows changes."""

    reversible = False

    def state_forwards(self, app_label, state):
        state.models[app_label, "trainrun"].bases = ("jobs.job",)
        state.reload_model(app_label, "trainrun", delay=False)

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        pass

    def describe(self):
        return "A train is a job"


class Migration(migrations.Migration):
    dependencies = [("training", "0017_jobs_of_trains")]

    operations = [
        migrations.RemoveConstraint(model_name="trainrun", name="one_train_an_idempotency_key"),
        *(migrations.RemoveField(model_name="trainrun", name=name) for name in MOVED),
        migrations.AlterField(
            model_name="trainrun",
            name="id",
            field=models.BigAutoField(primary_key=True, serialize=False),
        ),
        migrations.AlterField(
            model_name="trainrun",
            name="job",
            field=models.OneToOneField(
                on_delete=django.db.models.deletion.CASCADE,
                parent_link=True,
                related_name="trainrun",
                to="jobs.job",
            ),
        ),
        ExtendJob(),
    ]

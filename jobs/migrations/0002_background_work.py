"""What waited or ran in the background, and what was given up, becomes jobs in the same order. After the trains, whose
jobs have their numbers."""

from django.db import migrations

STATUS = {"waiting": "queued", "running": "running", "cancelling": "stopping", "given_up": "failed"}


def make_jobs(apps, schema_editor):
    Chore = apps.get_model("core", "Chore")
    Job = apps.get_model("jobs", "Job")
    people = set(apps.get_model("auth", "User").objects.values_list("pk", flat=True))

    for place, chore in enumerate(Chore.objects.order_by("lane", "turn", "pk")):
        has_ended = chore.status == "given_up"
        job = Job.objects.create(
            kind=chore.kind,
            name=name_of(apps, chore),
            arguments=chore.arguments,
            key=chore.key,
            owner_id=chore.person if chore.person in people else None,
            lane=chore.lane,
            place=place,
            due_at=chore.due_at,
            limit_seconds=chore.limit_seconds,
            status=STATUS[chore.status],
            attempt=max(1, chore.starts),
            # A start that runs has not failed yet.
            resumes=chore.starts if chore.status == "waiting" else max(0, chore.starts - 1),
            error_code="broke_off" if has_ended else "",
            error=chore.error,
            host=chore.host,
            process=chore.process,
            started_at=chore.started_at,
            finished_at=chore.started_at if has_ended else None,
            heartbeat_at=chore.heartbeat_at,
        )
        Job.objects.filter(pk=job.pk).update(created_at=chore.created_at)


def name_of(apps, chore):
    """What it is about, for people."""
    models = {
        "dataset-check": ("datasets_app", "Dataset", "name"),
        "token-count": ("datasets_app", "TokenLengths", "dataset__name"),
        "model-import": ("models_app", "BaseModel", "name"),
        "password-reset": ("auth", "User", "username"),
    }
    if chore.kind in models:
        label, model, field = models[chore.kind]
        rows = apps.get_model(label, model).objects.filter(pk=chore.arguments[0])
        if name := rows.values_list(field, flat=True).first():
            return name[:120]

    return chore.kind.replace("-", " ")


class Migration(migrations.Migration):
    dependencies = [
        ("jobs", "0001_initial"),
        ("core", "0002_chore_retries"),
        ("datasets_app", "0006_find_first_versions"),
        ("models_app", "0004_trained_models"),
        ("training", "0018_trains_are_jobs"),
    ]

    operations = [migrations.RunPython(make_jobs)]

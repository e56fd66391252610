from django.db import migrations


def rename(apps, old, new):
    """Jobs that make a trained model, from one kind to the other."""
    trained = set(
        apps.get_model("models_app", "BaseModel").objects.filter(source="train").values_list("pk", flat=True)
    )
    jobs = apps.get_model("jobs", "Job").objects

    for job in jobs.filter(kind=old).only("pk", "arguments", "key"):
        if job.arguments and job.arguments[0] in trained:
            key = job.key and job.key.replace(f"{old}-", f"{new}-", 1)
            jobs.filter(pk=job.pk).update(kind=new, key=key)


def forwards(apps, schema_editor):
    rename(apps, "model-import", "model-merge")


def backwards(apps, schema_editor):
    rename(apps, "model-merge", "model-import")


class Migration(migrations.Migration):

    dependencies = [
        ('models_app', '0005_parent_and_version'),
        ('jobs', '0003_notice'),
    ]

    operations = [migrations.RunPython(forwards, backwards)]

from django.db import migrations

# Repairs whose result is a dataset of its own, and no version of what it was made of.
ON_ITS_OWN = ("split_evaluation", "split_lists")


def roots_find(apps, schema_editor):
    """Every version learns which is the first one of its dataset."""
    dataset_model = apps.get_model("datasets_app", "Dataset")
    made = dataset_model.objects.exclude(parent=None).order_by("pk")

    # A version is younger than what it was made of, so that one's root is known by then.
    for dataset in made.select_related("parent").iterator():
        if dataset.repair.get("slug") in ON_ITS_OWN:
            continue
        parent = dataset_model.objects.only("root_id").get(pk=dataset.parent_id)
        dataset_model.objects.filter(pk=dataset.pk).update(root_id=parent.root_id or parent.pk)


class Migration(migrations.Migration):

    dependencies = [
        ("datasets_app", "0005_versions_and_changed_rows"),
    ]

    operations = [
        migrations.RunPython(roots_find, migrations.RunPython.noop, elidable=True),
    ]

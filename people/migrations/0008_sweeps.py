"""Whoever may see, change, delete or share everybody's trains may do so with sweeps, which are made of trains."""

from django.apps import apps as global_apps
from django.contrib.auth.management import create_permissions
from django.db import migrations

RIGHTS = ("view", "change", "delete", "share")


def give_rights(apps, schema_editor):
    create_permissions(global_apps.get_app_config("sweeps"), apps=apps, verbosity=0)
    Permission = apps.get_model("auth", "Permission")
    for right in RIGHTS:
        given = Permission.objects.get(content_type__app_label="sweeps", codename=f"{right}_sweep")
        for of_trains in Permission.objects.filter(
            content_type__app_label="training", codename=f"{right}_trainrun"
        ):
            for group in of_trains.group_set.all():
                group.permissions.add(given)
            for person in of_trains.user_set.all():
                person.user_permissions.add(given)


class Migration(migrations.Migration):
    dependencies = [("people", "0007_conversations"), ("sweeps", "0001_initial")]

    operations = [migrations.RunPython(give_rights, migrations.RunPython.noop)]

"""Operators see and stop everybody's jobs. They had these rights for background work, which is a kind of job now."""

from django.apps import apps as global_apps
from django.contrib.auth.management import create_permissions
from django.db import migrations

RIGHTS = {"view_chore": ("view_job",), "delete_chore": ("change_job", "delete_job")}


def give_rights(apps, schema_editor):
    create_permissions(global_apps.get_app_config("jobs"), apps=apps, verbosity=0)
    Permission = apps.get_model("auth", "Permission")
    jobs = Permission.objects.filter(content_type__app_label="jobs")
    earlier = Permission.objects.filter(content_type__app_label="core", content_type__model="chore")

    group = apps.get_model("auth", "Group").objects.filter(name="Operators").first()
    if group is not None:
        group.permissions.add(*jobs.filter(codename__in=("view_job", "change_job", "delete_job")))

    for codename, codenames in RIGHTS.items():
        for permission in earlier.filter(codename=codename):
            for holder in (*permission.group_set.all(), *permission.user_set.all()):
                held = holder.permissions if hasattr(holder, "permissions") else holder.user_permissions
                held.add(*jobs.filter(codename__in=codenames))

    earlier.delete()


class Migration(migrations.Migration):
    dependencies = [("people", "0002_operators"), ("jobs", "0001_initial")]

    operations = [migrations.RunPython(give_rights, migrations.RunPython.noop)]

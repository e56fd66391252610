"""Operators see and stop everybody's jobs. They had these rights for background work, which is a kind of job now."""

from django.apps import apps as global_apps
from django.contrib.auth.management import create_permissions
from django.db import migrations

RIGHTS = {
    ("core", "view_chore"): ("view_job",),
    ("core", "delete_chore"): ("change_job", "delete_job"),
    ("training", "view_notice"): ("view_notice",),
}


def give_rights(apps, schema_editor):
    create_permissions(global_apps.get_app_config("jobs"), apps=apps, verbosity=0)
    Permission = apps.get_model("auth", "Permission")
    jobs = Permission.objects.filter(content_type__app_label="jobs")
    group = apps.get_model("auth", "Group").objects.filter(name="Operators").first()
    if group is not None:
        group.permissions.add(*jobs.filter(codename__in=("view_job", "change_job", "delete_job", "view_notice")))

    for (label, codename), codenames in RIGHTS.items():
        for earlier in Permission.objects.filter(content_type__app_label=label, codename=codename):
            for holder in (*earlier.group_set.all(), *earlier.user_set.all()):
                held = holder.permissions if hasattr(holder, "permissions") else holder.user_permissions
                held.add(*jobs.filter(codename__in=codenames))

    gone = Permission.objects.filter(content_type__model__in=("chore", "notice")).exclude(content_type__app_label="jobs")
    gone.delete()


class Migration(migrations.Migration):
    dependencies = [("people", "0002_operators"), ("jobs", "0003_notice")]

    operations = [migrations.RunPython(give_rights, migrations.RunPython.noop)]

"""Operators look after everybody's exports, as they do after models."""

from django.apps import apps as global_apps
from django.contrib.auth.management import create_permissions
from django.db import migrations

CODENAMES = ("view_export", "change_export", "delete_export")


def give_rights(apps, schema_editor):
    create_permissions(global_apps.get_app_config("exports"), apps=apps, verbosity=0)
    Permission = apps.get_model("auth", "Permission")
    group = apps.get_model("auth", "Group").objects.filter(name="Operators").first()
    if group is not None:
        rights = Permission.objects.filter(content_type__app_label="exports")
        group.permissions.add(*rights.filter(codename__in=CODENAMES))


class Migration(migrations.Migration):
    dependencies = [("people", "0004_chains"), ("exports", "0001_exports")]

    operations = [migrations.RunPython(give_rights, migrations.RunPython.noop)]

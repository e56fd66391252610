"""Operators decide how trains and models that answer share a device."""

from django.apps import apps as global_apps
from django.contrib.auth.management import create_permissions
from django.db import migrations

CODENAMES = ("view_devicepolicy", "add_devicepolicy", "change_devicepolicy")


def give_rights(apps, schema_editor):
    create_permissions(global_apps.get_app_config("jobs"), apps=apps, verbosity=0)
    Permission = apps.get_model("auth", "Permission")
    group = apps.get_model("auth", "Group").objects.filter(name="Operators").first()
    if group is not None:
        rights = Permission.objects.filter(content_type__app_label="jobs")
        group.permissions.add(*rights.filter(codename__in=CODENAMES))


class Migration(migrations.Migration):
    dependencies = [("people", "0005_exports"), ("jobs", "0004_device_policy")]

    operations = [migrations.RunPython(give_rights, migrations.RunPython.noop)]

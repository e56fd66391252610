"""Staff was everything: whoever may open the administration saw and changed everybody's trains, whatever the rights of
the account were. From now on rights decide. The group Operators has those that staff used, and whoever is staff today
becomes a member, so that nobody loses what they do. Superusers need no group."""

import logging

from django.apps import apps as global_apps
from django.contrib.auth.management import create_permissions
from django.db import migrations

logger = logging.getLogger("deepextension.people")

NAME = "Operators"
RIGHTS = {
    "core": ("view_chore", "delete_chore"),
    # To see who was locked out, and to unlock.
    "accounts": ("view_signincounter", "delete_signincounter"),
    "datasets_app": (
        "view_dataset", "change_dataset", "delete_dataset", "share_dataset",
        "view_label", "add_label", "change_label", "delete_label",
    ),
    "models_app": ("view_basemodel", "change_basemodel", "delete_basemodel", "share_basemodel"),
    "training": (
        "view_trainrun", "change_trainrun", "delete_trainrun", "share_trainrun", "manage_queue", "view_notice",
    ),
    "methods": (
        "view_trainingmethod", "add_trainingmethod", "change_trainingmethod", "delete_trainingmethod",
        "view_rewardfunction",
    ),
    "django_rq": ("admin",),
    "auth": ("view_user", "add_user", "change_user", "delete_user"),
}
OWNED = (("datasets_app", "Dataset"), ("models_app", "BaseModel"), ("training", "TrainRun"))


def make_group(apps, schema_editor):
    # Django writes permissions after the last migration; this one needs them now.
    for label in RIGHTS:
        create_permissions(global_apps.get_app_config(label), apps=apps, verbosity=0)

    Permission = apps.get_model("auth", "Permission")
    group, _ = apps.get_model("auth", "Group").objects.get_or_create(name=NAME)
    for label, codenames in RIGHTS.items():
        found = Permission.objects.filter(content_type__app_label=label, codename__in=codenames)
        group.permissions.add(*found)


def add_staff(apps, schema_editor):
    group = apps.get_model("auth", "Group").objects.get(name=NAME)
    staff = apps.get_model("auth", "User").objects.filter(is_staff=True, is_superuser=False)
    for user in staff:
        user.groups.add(group)
    if names := [user.username for user in staff]:
        logger.warning("Rights now decide what staff may do. Added to the group %s: %s", NAME, ", ".join(names))


def say_what_is_hidden(apps, schema_editor):
    for label, name in OWNED:
        hidden = apps.get_model(label, name).objects.filter(owner=None, shared=False).count()
        if hidden:
            logger.warning(
                "%s: %s without an owner, of deleted accounts, are visible to operators only from now on. Hand them "
                "over or share them in the administration.", name, hidden,
            )


class Migration(migrations.Migration):
    dependencies = [
        ("people", "0001_removals"),
        ("accounts", "0002_tokens_and_addresses_of_before"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("core", "0001_chores"),
        ("datasets_app", "0004_shared_with_everyone"),
        ("django_rq", "0003_alter_dashboard_permission_names"),
        ("methods", "0001_initial"),
        ("models_app", "0003_shared_with_everyone"),
        ("training", "0012_shared_with_everyone"),
    ]

    operations = [
        migrations.RunPython(make_group, migrations.RunPython.noop),
        migrations.RunPython(add_staff, migrations.RunPython.noop),
        migrations.RunPython(say_what_is_hidden, migrations.RunPython.noop),
    ]

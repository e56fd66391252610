"""Tokens that knox's own table holds, and the addresses of earlier sign-ins that django-axes kept.

Both tables belong to libraries and exist only in homes that are older than this app. They are read, and the tokens
are moved; the tables themselves stay, so that the way back is open.
"""

from django.conf import settings
from django.db import migrations, models

OLD_TOKENS = "knox_authtoken"
OLD_SIGN_INS = "axes_accesslog"


def has_table(schema_editor, name):
    return name in schema_editor.connection.introspection.table_names()


def tokens_move(apps, schema_editor):
    if not has_table(schema_editor, OLD_TOKENS):
        return
    old, new = apps.get_model("accounts", "OldToken"), apps.get_model("accounts", "Token")

    for token in old.objects.all():
        made = new.objects.create(
            digest=token.digest,
            token_key=token.token_key,
            user_id=token.user_id,
            expiry=token.expiry,
            name=f"Token of {token.created:%d %b %Y}",
            scope="all",
        )
        # `created` is set by every save.
        new.objects.filter(pk=made.pk).update(created=token.created)
    old.objects.all().delete()


def tokens_move_back(apps, schema_editor):
    """Tokens of a smaller scope stay behind: the old table has no scope, and they would be of all."""
    if not has_table(schema_editor, OLD_TOKENS):
        return
    old, new = apps.get_model("accounts", "OldToken"), apps.get_model("accounts", "Token")

    for token in new.objects.filter(scope="all"):
        old.objects.create(
            digest=token.digest,
            token_key=token.token_key,
            user_id=token.user_id,
            created=token.created,
            expiry=token.expiry,
        )
    new.objects.all().delete()


def addresses_copy(apps, schema_editor):
    """People who signed in before are known at once where they did."""
    if not has_table(schema_editor, OLD_SIGN_INS):
        return
    from core.addresses import network

    user_model = apps.get_model(*settings.AUTH_USER_MODEL.split("."))
    sign_in, known = apps.get_model("accounts", "OldSignIn"), apps.get_model("accounts", "KnownAddress")
    people = dict(user_model.objects.values_list("username", "pk"))

    rows = sign_in.objects.values("username", "ip_address").annotate(last=models.Max("attempt_time"))
    for row in rows:
        if row["username"] in people and row["ip_address"]:
            known.objects.update_or_create(
                user_id=people[row["username"]],
                address=network(row["ip_address"]),
                defaults={"last_seen": row["last"]},
            )


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_accounts_begin")]

    operations = [
        # For this migration only: the two tables as the libraries made them.
        migrations.CreateModel(
            name="OldToken",
            fields=[
                ("digest", models.CharField(max_length=128, primary_key=True, serialize=False)),
                ("token_key", models.CharField(max_length=25)),
                ("user_id", models.BigIntegerField()),
                ("created", models.DateTimeField()),
                ("expiry", models.DateTimeField(null=True)),
            ],
            options={"managed": False, "db_table": OLD_TOKENS},
        ),
        migrations.CreateModel(
            name="OldSignIn",
            fields=[
                ("id", models.AutoField(primary_key=True, serialize=False)),
                ("username", models.CharField(max_length=255, null=True)),
                ("ip_address", models.GenericIPAddressField(null=True)),
                ("attempt_time", models.DateTimeField()),
            ],
            options={"managed": False, "db_table": OLD_SIGN_INS},
        ),
        migrations.RunPython(tokens_move, tokens_move_back),
        migrations.RunPython(addresses_copy, migrations.RunPython.noop),
        migrations.DeleteModel(name="OldToken"),
        migrations.DeleteModel(name="OldSignIn"),
    ]

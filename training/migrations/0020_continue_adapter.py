"""A train may carry the adapter of its base model on."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("training", "0019_delete_notice"),
    ]

    operations = [
        migrations.AddField(
            model_name="trainrun",
            name="continue_adapter",
            field=models.BooleanField(
                default=False,
                help_text="Whether it carries the base model's adapter on, in place of a new one "
                "on its merged weights.",
            ),
        ),
    ]

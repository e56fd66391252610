from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('playground', '0001_conversations'),
    ]

    operations = [
        migrations.AddField(
            model_name='answer',
            name='rounds',
            field=models.JSONField(blank=True, default=list, help_text="What it said before, when it called tools, with what they returned: text, reasoning, tool_calls, figures, and results as messages of OpenAI's API."),
        ),
        migrations.AlterField(
            model_name='answer',
            name='first_seconds',
            field=models.FloatField(blank=True, help_text='From when the model had its turn to the first token.', null=True),
        ),
    ]

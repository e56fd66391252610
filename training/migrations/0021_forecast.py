"""What was forecast of a train's memory, and what single steps took."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('datasets_app', '0006_find_first_versions'),
        ('methods', '0002_paths_in_the_home'),
        ('models_app', '0006_merges_are_a_kind_of_job'),
        ('training', '0020_continue_adapter'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name='trainrun',
            name='forecast',
            field=models.JSONField(default=dict, help_text='What was forecast of its memory when it was started: training.train.forecast.'),
        ),
        migrations.AddField(
            model_name='trainrun',
            name='started_anyway',
            field=models.BooleanField(default=False, help_text='An operator started it although the forecast says that it cannot fit.'),
        ),
        migrations.CreateModel(
            name='StepMeasurement',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('parameters', models.JSONField(help_text='Every value, defaults included.')),
                ('batch', models.JSONField(help_text='{rows, tokens, longest, answer} of the batch, as engine.forecast.batches has it.')),
                ('device', models.JSONField(default=dict, help_text='As the engine detected it.')),
                ('peak_bytes', models.BigIntegerField(blank=True, null=True)),
                ('step_seconds', models.FloatField(blank=True, help_text='Null where a train ran beside it, which slows a step.', null=True)),
                ('error', models.TextField(blank=True, help_text='Why there is no result, in words for people.')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('done_at', models.DateTimeField(blank=True, null=True)),
                ('base_model', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='models_app.basemodel')),
                ('dataset', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='datasets_app.dataset')),
                ('method', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='methods.trainingmethod')),
                ("asked_by", models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'ordering': ['-id'],
                'indexes': [models.Index(fields=['base_model', 'method'], name='steps_by_model_and_method')],
            },
        ),
    ]

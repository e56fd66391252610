import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Job',
            fields=[
                ('shared', models.BooleanField(default=False, help_text='Everyone on this platform can see it and use it.')),
                ('number', models.BigAutoField(primary_key=True, serialize=False)),
                ('kind', models.CharField(help_text='A name that jobs.kinds.kind_register knows.', max_length=50)),
                ('name', models.CharField(help_text='What it is about, for people.', max_length=120)),
                ('arguments', models.JSONField(default=list, help_text='What its kind needs to know.')),
                ('key', models.CharField(blank=True, help_text='One open job at a time of each key.', max_length=200, null=True)),
                ('idempotency_key', models.CharField(blank=True, max_length=200, null=True)),
                ('lane', models.SmallIntegerField(choices=[(0, 'Seconds'), (1, 'Minutes'), (2, 'Hours'), (3, 'Device')], default=3)),
                ('priority', models.SmallIntegerField(choices=[(-1, 'Low'), (0, 'Normal'), (1, 'High')], default=0)),
                ('place', models.FloatField(default=0, help_text='The order in line among those of the same lane and priority.')),
                ('due_at', models.DateTimeField(blank=True, help_text='After a failure: does not start again before.', null=True)),
                ('limit_seconds', models.PositiveIntegerField(blank=True, help_text='It is ended after so long.', null=True)),
                ('status', models.CharField(choices=[('queued', 'Waiting'), ('running', 'Running'), ('stopping', 'Stopping'), ('finished', 'Succeeded'), ('failed', 'Failed'), ('stopped', 'Stopped')], db_index=True, default='queued', max_length=10)),
                ('attempt', models.PositiveIntegerField(default=1)),
                ('resumes', models.PositiveSmallIntegerField(default=0, help_text='How often it was begun again by itself since a person last asked for it.')),
                ('phase', models.CharField(blank=True, max_length=80)),
                ('progress', models.FloatField(blank=True, help_text='Share that is done, 0 to 1.', null=True)),
                ('discards', models.BooleanField(default=False, help_text='Its stop saves nothing.')),
                ('events_offset', models.BigIntegerField(default=0, help_text='Bytes of events.jsonl already read.')),
                ('error_code', models.CharField(blank=True, max_length=40)),
                ('error', models.TextField(blank=True)),
                ('error_advice', models.TextField(blank=True)),
                ('worker', models.CharField(blank=True, max_length=200)),
                ('host', models.CharField(blank=True, help_text='The machine that runs it, or ran it last.', max_length=200)),
                ('process', models.CharField(blank=True, help_text='Whoever watches it, see core.processes.', max_length=60)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('started_at', models.DateTimeField(blank=True, null=True)),
                ('finished_at', models.DateTimeField(blank=True, null=True)),
                ('heartbeat_at', models.DateTimeField(blank=True, null=True)),
                ('earlier_seconds', models.FloatField(default=0, help_text='How long earlier attempts ran.')),
                ('owner', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('starts_after', models.ForeignKey(blank=True, help_text='Starts once that finished.', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='followers', to='jobs.job')),
            ],
            options={
                'ordering': ['-number'],
                'abstract': False,
                'default_permissions': ('add', 'change', 'delete', 'view', 'share'),
                'indexes': [models.Index(fields=['status', 'lane', '-priority', 'place'], name='jobs_in_order')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('status__in', ('queued', 'running', 'stopping'))), fields=('key',), name='one_open_job_a_key'), models.UniqueConstraint(fields=('owner', 'kind', 'idempotency_key'), name='one_job_an_idempotency_key')],
            },
        ),
    ]

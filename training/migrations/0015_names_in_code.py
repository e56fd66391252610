"""Names of the code follow what people search for; no table, column or row changes."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('training', '0014_labels_and_columns'),
    ]

    operations = [
        # With the column named, renaming the field renames nothing in the database.
        migrations.AlterField(
            model_name='trainrun',
            name='after',
            field=models.ForeignKey(blank=True, db_column='after_id', help_text='Starts once that finished.', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='followers', to='training.trainrun'),
        ),
        migrations.RenameField(
            model_name='trainrun',
            old_name='after',
            new_name='starts_after',
        ),
        migrations.AlterModelTable(
            name='metricstretch',
            table='training_metricstretch',
        ),
        migrations.RenameModel(
            old_name='MetricStretch',
            new_name='CurveSummary',
        ),
        migrations.AlterField(
            model_name='curvesummary',
            name='run',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='curve_summaries', to='training.trainrun'),
        ),
        migrations.AlterField(
            model_name='trainrun',
            name='resumes',
            field=models.PositiveSmallIntegerField(default=0, help_text='How often it resumed by itself since a person last resumed it.'),
        ),
    ]

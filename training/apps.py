from django.apps import AppConfig


class TrainingConfig(AppConfig):
    name = "training"
    verbose_name = "Model Training"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django.core.checks import register

        from core.chores import Kind, kind_register
        from training.checks import health_thresholds

        register(health_thresholds)
        jobs = "training.jobs"
        kind_register(Kind("notices", f"{jobs}.send_notices", f"{jobs}.notices_ended"))
        kind_register(Kind("reward-trial", f"{jobs}.run_trial", f"{jobs}.trial_ended"))

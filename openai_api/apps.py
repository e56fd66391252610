from django.apps import AppConfig


class OpenAIApiConfig(AppConfig):
    name = "openai_api"
    verbose_name = "OpenAI API"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from openai_api.files import files_expire
        from openai_api.fine_tuning.jobs import jobs_advance
        from training.work.reconcile import reconcile_also

        reconcile_also(jobs_advance)
        reconcile_also(files_expire)

from django.apps import AppConfig


class DatasetsAppConfig(AppConfig):
    name = "datasets_app"
    verbose_name = "Datasets"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from core.chores import Kind, kind_register

        jobs = "datasets_app.jobs"
        reading = ("datasets_app.checking",)
        kind_register(
            Kind("dataset-check", f"{jobs}.check_dataset", f"{jobs}.check_ended", reading)
        )
        kind_register(Kind("token-count", f"{jobs}.count_tokens", f"{jobs}.count_ended"))

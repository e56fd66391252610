from django.apps import AppConfig


class DatasetsAppConfig(AppConfig):
    name = "datasets_app"
    verbose_name = "Datasets"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from jobs.kinds import WORTH_A_NOTICE, Kind, kind_register

        jobs = "datasets_app.jobs"
        kind_register(
            Kind(
                "dataset-check",
                "Dataset check",
                run=f"{jobs}.check_dataset",
                ended=f"{jobs}.check_ended",
                keys=f"{jobs}.check_keys",
                needs=("datasets_app.checking",),
                addresses=f"{jobs}.check_addresses",
                notice_seconds=WORTH_A_NOTICE,
            )
        )
        kind_register(
            Kind(
                "token-count",
                "Token count",
                run=f"{jobs}.count_tokens",
                ended=f"{jobs}.count_ended",
                keys=f"{jobs}.count_keys",
                addresses=f"{jobs}.count_addresses",
            )
        )

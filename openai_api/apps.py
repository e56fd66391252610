from django.apps import AppConfig


class OpenAIApiConfig(AppConfig):
    name = "openai_api"
    verbose_name = "OpenAI API"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from jobs.kinds import WORTH_A_NOTICE, Kind, kind_register
        from openai_api.files import files_expire
        from openai_api.fine_tuning.jobs import jobs_advance
        from openai_api.inference.housekeeping import inference_prune
        from training.work.reconcile import reconcile_also

        reconcile_also(jobs_advance)
        reconcile_also(files_expire)
        reconcile_also(inference_prune)

        jobs = "openai_api.inference.jobs"
        kind_register(
            Kind(
                "batch",
                "Batch",
                run=f"{jobs}.run_batch",
                ended=f"{jobs}.batch_ended",
                needs=("openai_api.inference.batch_running",),
                notice_seconds=WORTH_A_NOTICE,
            )
        )

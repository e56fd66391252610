from django.apps import AppConfig


class ModelsAppConfig(AppConfig):
    name = "models_app"
    verbose_name = "Models"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from core.tokenizers import tokenizers_offer
        from jobs.kinds import WORTH_A_NOTICE, Kind, kind_register
        from models_app.tokenizers import tokenizers_of_models

        tokenizers_offer(tokenizers_of_models)
        jobs = "models_app.jobs"
        # A merge makes a model as an import does: of what a train left.
        for name, title in (("model-import", "Model import"), ("model-merge", "Merge")):
            kind_register(
                Kind(
                    name,
                    title,
                    run=f"{jobs}.import_model",
                    ended=f"{jobs}.import_ended",
                    keys=f"{jobs}.import_keys",
                    needs=("models_app.importing",),
                    addresses=f"{jobs}.import_addresses",
                    notice_seconds=WORTH_A_NOTICE,
                )
            )

from django.apps import AppConfig


class ModelsAppConfig(AppConfig):
    name = "models_app"
    verbose_name = "Models"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from core.chores import Kind, kind_register
        from core.tokenizers import tokenizers_offer
        from models_app.tokenizers import tokenizers_of_models

        tokenizers_offer(tokenizers_of_models)
        jobs, importing = "models_app.jobs", ("models_app.importing",)
        kind_register(
            Kind("model-import", f"{jobs}.import_model", f"{jobs}.import_ended", importing)
        )

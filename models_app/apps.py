from django.apps import AppConfig


class ModelsAppConfig(AppConfig):
    name = "models_app"
    verbose_name = "Models"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from core.tokenizers import tokenizers_offer
        from models_app.tokenizers import tokenizers_of_models

        tokenizers_offer(tokenizers_of_models)

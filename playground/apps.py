from django.apps import AppConfig


class PlaygroundConfig(AppConfig):
    name = "playground"
    verbose_name = "Playground"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from datasets_app.panels import Panel, panel_add
        from playground.pages import dataset_context

        panel_add(Panel("playground/_next_train.html", dataset_context))

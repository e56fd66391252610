from django.apps import AppConfig


class MethodsConfig(AppConfig):
    name = "methods"
    verbose_name = "Training methods"
    default_auto_field = "django.db.models.BigAutoField"

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from accounts import openapi  # noqa: F401 - registers how the API document names tokens
        from core.chores import DELIVERY_PAUSES, Kind, kind_register

        jobs = "accounts.jobs"
        kind_register(
            Kind(
                "password-reset",
                f"{jobs}.send_password_reset",
                f"{jobs}.password_reset_ended",
                pauses=DELIVERY_PAUSES,
            )
        )

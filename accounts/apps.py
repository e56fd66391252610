from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from accounts import openapi  # noqa: F401 - registers how the API document names tokens
        from accounts.services import notices_wanted
        from jobs.kinds import DELIVERY_PAUSES, Kind, kind_register
        from jobs.notices import mail_wanted_register

        mail_wanted_register(notices_wanted)

        jobs = "accounts.jobs"
        kind_register(
            Kind(
                "password-reset",
                "Mail for a new password",
                run=f"{jobs}.send_password_reset",
                pauses=DELIVERY_PAUSES,
                is_listed=False,
                keeps=False,
            )
        )

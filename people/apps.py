from django.apps import AppConfig


class PeopleConfig(AppConfig):
    name = "people"
    verbose_name = "People"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from people.removing import removals_finish
        from training.work.reconcile import reconcile_also

        reconcile_also(removals_finish)

from django.apps import AppConfig


class SweepsConfig(AppConfig):
    name = "sweeps"
    verbose_name = "Sweeps"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from core.ownership import follow_owner
        from sweeps.advancing import sweeps_advance
        from sweeps.needs import WAITING, sweep_needs
        from sweeps.notices import is_held, sweep_notice
        from sweeps.search import sweeps_found
        from sweeps.services import sweep_follow
        from training.pages.search import search_also
        from training.train.needed import needed_also, waiting_register
        from training.work.notices import notices_taken_over
        from training.work.reconcile import reconcile_also

        follow_owner(sweep_follow)
        notices_taken_over(is_held=is_held, text=sweep_notice)
        needed_also(sweep_needs)
        waiting_register(WAITING)
        search_also(sweeps_found)
        reconcile_also(sweeps_advance)

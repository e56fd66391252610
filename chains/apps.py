from django.apps import AppConfig


class ChainsConfig(AppConfig):
    name = "chains"
    verbose_name = "Chains"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from chains.advancing import chains_advance
        from chains.needs import WAITING, chain_needs
        from chains.notices import chain_notice, is_held
        from chains.search import chains_found
        from chains.services import chain_follow
        from core.ownership import follow_owner
        from training.pages.search import search_also
        from training.train.needed import needed_also, waiting_register
        from training.work.notices import notices_taken_over
        from training.work.reconcile import reconcile_also

        follow_owner(chain_follow)
        notices_taken_over(is_held=is_held, text=chain_notice)
        needed_also(chain_needs)
        waiting_register(WAITING)
        search_also(chains_found)
        reconcile_also(chains_advance)

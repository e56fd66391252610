from django.apps import AppConfig


class ExportsConfig(AppConfig):
    name = "exports"
    verbose_name = "Exports"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from exports.repository import SUFFIX, gguf_repository
        from exports.views import exports_context
        from jobs.kinds import WORTH_A_NOTICE, Kind, kind_register
        from models_app.panels import Panel, panel_add
        from models_app.repositories import repositories_provide

        repositories_provide(SUFFIX, gguf_repository)
        panel_add(Panel("exports/_card.html", exports_context, styles=("exports.css",)))
        jobs = "exports.jobs"
        kind_register(
            Kind(
                "model-export",
                "Export",
                run=f"{jobs}.make_export",
                ended=f"{jobs}.export_ended",
                keys=f"{jobs}.export_keys",
                needs=("exports.making",),
                addresses=f"{jobs}.export_addresses",
                notice_seconds=WORTH_A_NOTICE,
            )
        )

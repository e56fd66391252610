from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "jobs"
    verbose_name = "Jobs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from core.ownership import follow_owner
        from jobs.kinds import Kind, kind_register
        from jobs.services import jobs_follow

        follow_owner(jobs_follow)
        kind_register(
            Kind(
                "notices",
                "Notices of ended jobs",
                run="jobs.jobs.send_notices",
                is_listed=False,
                keeps=False,
            )
        )

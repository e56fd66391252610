from django.apps import AppConfig


class TrainingConfig(AppConfig):
    name = "training"
    verbose_name = "Model Training"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django.core.checks import register

        from jobs.kinds import Kind, kind_register
        from training.checks import health_thresholds
        from training.train.followers import FOLLOWERS
        from training.train.needed import waiting_register

        register(health_thresholds)
        waiting_register(FOLLOWERS)
        jobs = "training.jobs"
        kind_register(
            Kind(
                "train",
                "Train",
                addresses=f"{jobs}.train_addresses",
                stop=f"{jobs}.stop_train",
                notice="training.work.notices.train_notice",
                notice_seconds=0,
            )
        )
        kind_register(
            Kind(
                "reward-trial",
                "Trial of rewards",
                run=f"{jobs}.run_trial",
                ended=f"{jobs}.trial_ended",
            )
        )
        kind_register(
            Kind(
                "step-trial",
                "Trial of one step",
                run=f"{jobs}.run_step",
                ended=f"{jobs}.step_ended",
            )
        )
        kind_register(
            Kind(
                "storage-clearing",
                "Clearing of the storage",
                run=f"{jobs}.clear_storage",
                is_listed=False,
            )
        )

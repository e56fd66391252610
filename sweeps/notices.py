"""One notice for a sweep, in place of one for each of its trains."""

from __future__ import annotations

from django.db.models import F, Q

from jobs.models import Notice
from jobs.notices import NoticeText, notices_create, public_address
from sweeps.models import Sweep, Trial
from sweeps.ranking import best_trial, result_text
from training.models import TrainRun


def is_held(run: TrainRun) -> bool:
    """Whether the end of this train is no news of its own: its sweep goes on, or says why not. One
    that the sweep stopped may end after it."""
    # Not one that a person has resumed since.
    is_halted = Q(is_halted=True, run__started_at__lte=F("sweep__ended_at"))
    is_pruned = Q(state=Trial.State.PRUNED, run__status=TrainRun.Status.STOPPED)
    own = Trial.objects.filter(run=run, sweep__owner=run.owner)
    return own.filter(Q(sweep__status__in=Sweep.ACTIVE) | is_halted | is_pruned).exists()


def sweep_notify(sweep: Sweep) -> None:
    """Record who is to be notified that the sweep has ended or stopped, by a notice of its train
    that ended last. Call it inside the transaction that ends the sweep."""
    # A train that changed hands would tell somebody else of it.
    own = sweep.trials.filter(run__owner=sweep.owner, run__status__in=TrainRun.ENDED)
    trials = own.select_related("run")
    trial = trials.order_by("run__finished_at", "pk").last()
    run = trial.run if trial is not None else None
    if run is None:
        return

    # A sweep can stop twice at the same attempt of a train, of which there is one notice a way.
    Notice.objects.filter(job=run.number, attempt=run.attempt).delete()
    notices_create(run)


def sweep_notice(run: TrainRun, notice: Notice) -> NoticeText | None:
    """What a notice of a train says where it speaks for a sweep."""
    trial = Trial.objects.filter(run=run).select_related("sweep__owner").first()
    if trial is None or trial.sweep.owner_id != run.owner_id or not trial.sweep.speaks_for(run):
        return None

    sweep = trial.sweep
    trials = list(sweep.trials.select_related("run"))
    best = best_trial(sweep, trials)
    address = public_address(sweep.get_absolute_url())
    status = sweep.get_status_display().lower()
    paragraphs = [result_text(sweep, trials)]
    if sweep.reason:
        paragraphs.append(sweep.reason)

    return NoticeText(
        subject=f"{sweep.name} has {status}",
        paragraphs=[*paragraphs, address],
        event=f"sweep.{sweep.status}",
        about={
            "sweep": {
                "id": sweep.pk,
                "name": sweep.name,
                "status": sweep.status,
                "reason": sweep.reason,
                "trains": len(trials),
                "metric": sweep.metric,
                "best_value": best.value if best is not None else None,
                "best_train": best.run_id if best is not None else None,
                "owner": sweep.owner.get_username() if sweep.owner else None,
                "url": address,
            }
        },
    )

"""One notice for a chain, in place of one for each of its trains."""

from __future__ import annotations

from chains.models import Chain, Stage
from jobs.models import Notice
from jobs.notices import NoticeText, notices_create, public_address
from training.models import TrainRun


def is_held(run: TrainRun) -> bool:
    """Whether the end of this train is no news of its own: its chain goes on, or says why not."""
    return Stage.objects.filter(run=run, chain__status=Chain.Status.RUNNING).exists()


def chain_notify(chain: Chain) -> None:
    """Record who is to be notified that the chain has ended or stopped, by a notice of its newest
    train. Call it inside the transaction that ends the chain."""
    stage = chain.stages.exclude(run=None).select_related("run").last()
    run = stage.run if stage is not None else None
    if run is None or not run.ended:
        return

    # A chain can stop twice at the same attempt of a train, of which there is one notice a way. A
    # sender that is at the earlier one only fails to record that it was sent.
    Notice.objects.filter(job=run.number, attempt=run.attempt).delete()
    notices_create(run)


def chain_notice(run: TrainRun, notice: Notice) -> NoticeText | None:
    """What a notice of a train says where it speaks for a chain."""
    stage = Stage.objects.filter(run=run).select_related("chain__owner").first()
    if stage is None or not stage.chain.speaks_for(run):
        return None

    chain = stage.chain
    count = chain.stages.count()
    address = public_address(chain.get_absolute_url())
    status = chain.get_status_display().lower()
    paragraphs = [f"Chain {chain.name}, stage {stage.position} of {count}: train #{run.pk}"]
    if chain.reason:
        paragraphs.append(chain.reason)

    return NoticeText(
        subject=f"{chain.name} has {status}",
        paragraphs=[*paragraphs, address],
        event=f"chain.{chain.status}",
        about={
            "chain": {
                "id": chain.pk,
                "name": chain.name,
                "status": chain.status,
                "reason": chain.reason,
                "stage": stage.position,
                "stages": count,
                "train": run.pk,
                "owner": chain.owner.get_username() if chain.owner else None,
                "url": address,
            }
        },
    )

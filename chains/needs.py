"""What chains that run need of trains."""

from __future__ import annotations

from django.db.models import Q, QuerySet

from chains.advancing import chain_stop
from chains.models import Chain, Stage
from training.models import TrainRun
from training.train.needed import Waiting
from training.train.reward_resources import is_reward_model, scorers_named
from training.train.services import train_withdraw

WAITS_FOR_IT = "A chain waits until this train has succeeded. Cancel the chain first."
STANDS_ON_IT = "A running chain needs this train. Cancel the chain first."


def chain_needs(run: TrainRun) -> str:
    """Why a chain needs the train: it is one of its stages, or the reward model of a stage that has
    not ended; "" where none does."""
    stages = Stage.objects.filter(chain__status=Chain.Status.RUNNING)
    if stages.filter(run=run).exists():
        return STANDS_ON_IT
    if not is_reward_model(run):
        return ""

    to_come = stages.exclude(run__status__in=TrainRun.ENDED)
    lists = to_come.values_list("parameters", flat=True)
    is_named = any(run.pk in scorers_named(parameters) for parameters in lists)
    return STANDS_ON_IT if is_named else ""


def first_to_wait() -> QuerySet[Stage]:
    """The first stages of chains that run, where their trains are not made yet and will wait for one
    that has not succeeded."""
    stages = Stage.objects.filter(chain__status=Chain.Status.RUNNING, position=1, began_at=None)
    return stages.exclude(chain__starts_after=None).exclude(
        chain__starts_after__status=TrainRun.Status.FINISHED
    )


def _waiting_for(run: TrainRun) -> QuerySet[Chain]:
    """Those whose first train waits for it, or is to wait once it is made."""
    is_to_come = Q(began_at=None, chain__starts_after=run)
    waits = Q(run__status=TrainRun.Status.QUEUED, run__starts_after=run.job_id)
    first = Stage.objects.filter(is_to_come | waits, position=1)
    return Chain.objects.running().filter(pk__in=first.values("chain")).order_by("pk")


def _stop(chain: Chain, reason: str) -> None:
    run = chain.stages.select_related("run").get(position=1).run
    if run is not None:
        train_withdraw(run)

    chain_stop(chain, reason)


WAITING = Waiting(_waiting_for, lambda chains: WAITS_FOR_IT, _stop)

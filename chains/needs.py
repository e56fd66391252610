"""What chains that run need of trains."""

from __future__ import annotations

from chains.models import Chain, Stage
from training.models import TrainRun
from training.train.reward_resources import is_reward_model, scorers_named

STANDS_ON_IT = "A chain that runs stands on this train. Cancel the chain first."


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

"""How a chain stands, for pages and API: each stage with its train and model as far as the reader
may see them, and what the chain does now as one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from django.contrib.auth.models import AnonymousUser, User

from chains.checking import Errors, stages_errors
from chains.gates import gate_words, measured_words
from chains.models import Chain, Stage
from core.ownership import Reader, may_change
from jobs.devices.presence import worker_state
from models_app.models import BaseModel
from training.models import TrainRun
from training.train.durations import run_progress
from training.train.metrics import method_metrics
from training.train.standing import activity_of

Status = Chain.Status
RunStatus = TrainRun.Status

# Copies of a train that failed, offered in its place.
MOST_COPIES = 5


@dataclass(frozen=True)
class StageRow:
    """A stage as this reader sees it.

    run, model: None where there is none, or the reader may not see it. errors: what stands against
    a draft's stage. copies: trains that could take the place of one that did not finish."""

    stage: Stage
    is_first: bool
    is_last: bool
    run: TrainRun | None
    model: BaseModel | None
    errors: list[str] = field(default_factory=list)
    copies: list[TrainRun] = field(default_factory=list)

    @property
    def status(self) -> str:
        """queued, running, …, as its train has it; "" before its train."""
        run = self.stage.run
        return str(run.status) if run is not None else ""

    @property
    def status_title(self) -> str:
        run = self.stage.run
        if run is not None:
            return str(run.get_status_display())

        return "Train deleted" if self.stage.has_begun else "Not started"

    @property
    def progress(self) -> float | None:
        return run_progress(self.run) if self.run is not None and not self.run.ended else None

    @property
    def gate(self) -> str:
        """What must be so before the next stage, as the end of "if …"."""
        return gate_words(self.stage)

    @property
    def metrics(self) -> list[tuple[str, str]]:
        """(name, title) of what the gate can ask for."""
        return list(method_metrics(self.stage.method).items())

    @property
    def found(self) -> str:
        """What the gate has found, in words."""
        return measured_words(self.stage, self.stage.method)

    @property
    def gate_state(self) -> str:
        """open, closed, waived, or "" for a gate that was not asked yet."""
        if self.stage.passed is None:
            return ""
        if self.stage.passed:
            return "open"

        return "waived" if self.stage.gate_waived else "closed"


@dataclass(frozen=True)
class Seen:
    """Ids of the trains and models of chains that a reader may see."""

    runs: set[int]
    models: set[int]


def seen_of(chains: Iterable[Chain], reader: User | AnonymousUser) -> Seen:
    """By two queries, however many chains there are. Their stages are there already."""
    stages = [stage for chain in chains for stage in chain.stages.all()]
    return Seen(
        runs=_seen(TrainRun, [stage.run_id for stage in stages], reader),
        models=_seen(BaseModel, [stage.model_id for stage in stages], reader),
    )


def stage_rows(
    chain: Chain, reader: User | AnonymousUser, seen: Seen, *, is_own_page: bool = False
) -> list[StageRow]:
    """The stages in order. is_own_page: with what takes many queries, the errors of a draft and the
    copies that could take the place of a train."""
    stages = list(chain.stages.all())
    is_checked = is_own_page and chain.status == Status.DRAFT
    errors = stages_errors(chain, stages) if is_checked else []

    return [
        StageRow(
            stage=stage,
            is_first=index == 0,
            is_last=index == len(stages) - 1,
            run=stage.run if stage.run_id in seen.runs else None,
            model=stage.model if stage.model_id in seen.models else None,
            errors=_texts(errors[index]) if errors else [],
            copies=_copies(chain, stage, reader) if is_own_page else [],
        )
        for index, stage in enumerate(stages)
    ]


def _seen(
    kind: type[TrainRun] | type[BaseModel], ids: Iterable[int | None], reader: Reader
) -> set[int]:
    wanted = [pk for pk in ids if pk is not None]
    if not wanted:
        return set()

    visible = kind.objects.visible_to(reader).filter(pk__in=wanted).order_by()
    return set(visible.values_list("pk", flat=True))


def _texts(errors: Errors) -> list[str]:
    return [text for texts in errors.values() for text in texts]


def _copies(chain: Chain, stage: Stage, reader: User | AnonymousUser) -> list[TrainRun]:
    """Of a stopped chain: copies of the train that did not finish, which could take its place."""
    run = stage.run
    is_open = chain.status == Status.STOPPED and may_change(chain, reader)
    if not is_open or run is None or run.status not in (RunStatus.FAILED, RunStatus.STOPPED):
        return []

    copies = TrainRun.objects.visible_to(reader).filter(
        copied_from=run, owner=chain.owner_id, base_model=run.base_model_id, stage=None
    )
    hopeful = copies.exclude(status__in=(RunStatus.FAILED, RunStatus.STOPPED))
    return list(hopeful.order_by("-pk")[:MOST_COPIES])


def stage_now(stages: Sequence[Stage]) -> Stage | None:
    """The stage that the chain is at; None for one without stages."""
    begun = [stage for stage in stages if stage.has_begun]
    if begun:
        return begun[-1]

    return stages[0] if stages else None


def chain_activity(chain: Chain) -> str:
    """What a chain that runs does now; "" for any other."""
    stages = list(chain.stages.all())
    stage = stage_now(stages)
    if chain.status != Status.RUNNING or stage is None:
        return ""

    at = f"Stage {stage.position} of {len(stages)}"
    run = stage.run
    if run is None:
        return f"{at} is about to start."
    if not run.ended:
        return f"{at}: {activity_of(run)}"
    if stage.model is not None and stage.model.status == BaseModel.Status.IMPORTING:
        phase = stage.model.phase.lower()
        return f"{at} has finished. Its model is being made{f': {phase}' if phase else ''}."

    worker = worker_state()
    if worker.device is None:
        return f"{at} has finished. The next one waits for a worker. {worker.message}"

    return f"{at} has finished. The next one is about to start."


def go_on_words(chain: Chain) -> str:
    """What the button says that lets a stopped chain go on."""
    stages = list(chain.stages.all())
    stage = stage_now(stages)
    if stage is None or not stage.has_begun:
        return "Try again"

    run = stage.run
    if run is None or run.status in (RunStatus.FAILED, RunStatus.STOPPED):
        return f"Start stage {stage.position} again"
    if run.status == RunStatus.FINISHED and stage.passed is False and not stage.gate_waived:
        return "Continue anyway"

    model = stage.model
    is_unproved = model is not None and model.proof_state == "failed" and not stage.proof_waived
    return "Continue anyway" if is_unproved else f"Continue from stage {stage.position}"

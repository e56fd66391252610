"""Prompts of the data behind a model that it was not trained on, to be asked with a click."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User

from datasets_app.models import Dataset
from datasets_app.preview import rows_seen
from exports.models import Export
from models_app.models import BaseModel
from serving.targets import Target
from training.models import Sample, TrainRun

ROWS = 20


@dataclass(frozen=True)
class Prompt:
    """text: the last question. reference: the answer of the data, "" for none. system: the row's
    own system prompt."""

    text: str
    reference: str = ""
    system: str = ""


@dataclass(frozen=True)
class Prompts:
    """note: what these are, in a sentence; why there are none, where there are none."""

    prompts: list[Prompt]
    note: str
    more: bool = False


NO_TRAIN = "This model was not trained here, so there are no held-out prompts."


def prompts_of(key: str, reader: User, start: int = 0) -> Prompts:
    """Prompts behind a target, from the evaluation dataset of its train where it had one, else those
    that the train held out and answered. Raises UserError (404) for what is no target."""
    run = train_behind(Target.parse(key), reader)
    if run is None:
        return Prompts([], NO_TRAIN)

    dataset = run.evaluation_dataset
    if dataset is not None and _may_read(dataset, reader):
        rows = rows_seen(dataset, start, ROWS)
        prompts = [prompt for row in rows if (prompt := _of_example(row.example)) is not None]
        note = f"Rows of {dataset.title}, by which {run.name} was evaluated."
        return Prompts(prompts, note, more=start + ROWS < dataset.row_count)

    if start:
        return Prompts([], "")

    return _sampled(run)


def _may_read(dataset: Dataset, reader: User) -> bool:
    return Dataset.objects.visible_to(reader).filter(pk=dataset.pk).exists()


def _sampled(run: TrainRun) -> Prompts:
    samples = Sample.objects.filter(run=run, stage__in=("before", "after"))
    by_index: dict[int, Prompt] = {}
    for sample in samples.order_by("index", "seq"):
        by_index.setdefault(sample.index, Prompt(sample.prompt, sample.reference))

    prompts = list(by_index.values())
    if not prompts:
        return Prompts([], f"{run.name} kept no prompts.")

    if run.facts.get("eval_rows"):
        note = f"Held out when {run.name} was trained."
    else:
        note = f"Nothing was held out: {run.name} was trained on these rows."

    return Prompts(prompts, note)


def train_behind(target: Target, reader: User) -> TrainRun | None:
    """The train that made what is asked, where `reader` may see it."""
    pk: Any = target.pk
    if target.kind == "export":
        export = Export.objects.visible_to(reader).filter(pk=pk).select_related("model").first()
        pk = export.model.trained_from.get("train") if export is not None else None
    elif target.kind == "model":
        model = BaseModel.objects.visible_to(reader).filter(pk=pk).first()
        pk = model.trained_from.get("train") if model is not None else None

    if not isinstance(pk, int):
        return None

    visible = TrainRun.objects.visible_to(reader).select_related("evaluation_dataset")
    return visible.filter(pk=pk).first()


def _of_example(example: Any) -> Prompt | None:
    """The last question of a row and the answer to it."""
    if example is None or not example.messages:
        return None

    turns = list(example.messages)
    answer = ""
    if example.chosen:
        answer = _text(example.chosen[-1])
    elif turns[-1].get("role") == "assistant":
        answer = _text(turns.pop())

    system = _text(turns[0]) if turns and turns[0].get("role") == "system" else ""
    asked = [turn for turn in turns if turn.get("role") == "user"]

    return Prompt(_text(asked[-1]), answer, system) if asked and _text(asked[-1]) else None


def _text(turn: dict[str, Any]) -> str:
    content = turn.get("content")
    return content if isinstance(content, str) else ""

"""Datasets that are made of feedback."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.urls import reverse

from core.errors import UserError
from core.ownership import may_change
from core.text import clean_label, counted
from core.upload import ReceivedFile
from datasets_app.models import Dataset
from datasets_app.services import dataset_create
from exports.models import Export
from methods.models import TrainingMethod
from models_app.models import BaseModel
from playground.dataset_rows import METHODS, Rows, judgements, rows_of
from playground.feedback import feedback_of
from playground.models import Conversation, FeedbackDataset
from serving.targets import Target
from training.models import TrainRun

Form = FeedbackDataset.Form


@dataclass(frozen=True)
class Offer:
    """A form of dataset that can be made: how many rows it would have, and what is left out. newest:
    the version that the next one would follow."""

    form: Form
    rows: int
    left_out: list[str]
    newest: Dataset | None

    @property
    def left_out_text(self) -> str:
        return ", ".join(self.left_out)


def offers_of(person: User, conversation: Conversation | None = None) -> list[Offer]:
    feedback = feedback_of(person, conversation)
    forms = {form: Rows(form, feedback) for form in Form}
    for item in judgements(feedback):
        for made in forms.values():
            for _ in made.take(item):
                pass

    return [
        Offer(form, made.count, made.left_out_texts, newest_of(person, form, conversation))
        for form, made in forms.items()
    ]


def newest_of(person: User, form: str, conversation: Conversation | None) -> Dataset | None:
    """The dataset that was made last of the same, where `person` may add a version to it."""
    made = FeedbackDataset.objects.filter(owner=person, form=form, conversation=conversation)
    if conversation is None:
        made = made.filter(all_feedback=True)

    latest = made.select_related("dataset").first()
    if latest is None or not may_change(latest.dataset, person):
        return None

    return latest.dataset


def dataset_make(
    *, by: User, form: str, conversation: Conversation | None = None, name: str = ""
) -> Dataset:
    """Make a dataset of a person's feedback, of one conversation or of all; made again it is the
    next version. Raises UserError where there is nothing to make it of."""
    if form not in Form.values:
        raise UserError({"form": [f"Give one of {', '.join(Form.values)}."]})

    made, rows = rows_of(form, feedback_of(by, conversation))
    file = _file_of(rows, _file_name(form, conversation))
    if not made.count:
        file.close()
        text = (
            f"There is no feedback for {Form(form).label} yet. Vote, give thumbs or correct an "
            "answer first."
        )
        raise UserError({"form": [text]})

    before = newest_of(by, form, conversation)
    title = clean_label(name, limit=120) or _name_of(form, conversation)

    with transaction.atomic():
        dataset = dataset_create(
            owner=by,
            file=file,
            name=title,
            description=_description(made, conversation),
            version_of=before,
        )
        FeedbackDataset.objects.create(
            dataset=dataset,
            owner=by,
            form=form,
            conversation=conversation,
            all_feedback=conversation is None,
            model_key=made.models.most_common(1)[0][0],
            rows=made.count,
        )

    return dataset


def _file_of(rows: Iterable[dict[str, Any]], name: str) -> ReceivedFile:
    with tempfile.TemporaryDirectory(dir=settings.FILE_UPLOAD_TEMP_DIR) as folder:
        path = Path(folder) / name
        with path.open("w", encoding="utf-8") as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")

        return ReceivedFile.copy_of(path)


def _file_name(form: str, conversation: Conversation | None) -> str:
    part = f"-{conversation.pk}" if conversation is not None else ""
    return f"feedback-{form}{part}.jsonl"


def _name_of(form: str, conversation: Conversation | None) -> str:
    whose = conversation.name if conversation is not None else "Playground"
    return clean_label(f"{whose}: {Form(form).label}", limit=120)


def _description(made: Rows, conversation: Conversation | None) -> str:
    where = f"in “{conversation.name}”" if conversation is not None else "in the playground"
    text = f"Made from {counted(made.count, 'judgement')} {where}."
    left_out = ", ".join(made.left_out_texts)

    return f"{text} Left out: {left_out}." if left_out else text


# The next train


@dataclass(frozen=True)
class NextTrain:
    """What a dataset of feedback is to be trained with: a link to the form, filled in."""

    method: TrainingMethod
    model: BaseModel | None
    address: str


def next_train(dataset: Dataset, reader: User) -> NextTrain | None:
    """None for a dataset that was not made of feedback, or of which nobody can train yet."""
    made = FeedbackDataset.objects.filter(dataset=dataset).first()
    if made is None or dataset.status != Dataset.Status.READY or dataset.archived_at is not None:
        return None

    slug = METHODS[Form(made.form)]
    method = TrainingMethod.objects.offered().filter(slug=slug).first()
    if method is None:
        return None

    model = model_of(made.model_key, reader)
    query = {"dataset": dataset.pk} | ({"base_model": model.pk} if model is not None else {})
    address = f"{reverse('training:form', args=[slug])}?{urlencode(query)}"

    return NextTrain(method, model, address)


def model_of(key: str, reader: User) -> BaseModel | None:
    """The base model that a train of the model behind `key` starts from: itself, what was merged
    of the train, or what the train started from. None where `reader` cannot use it."""
    try:
        target = Target.parse(key)
    except UserError:
        return None

    offered = BaseModel.objects.visible_to(reader).offered()
    if target.kind == "model":
        return offered.filter(pk=target.pk).first()

    if target.kind == "export":
        export = Export.objects.visible_to(reader).filter(pk=target.pk).first()
        return offered.filter(pk=export.model_id).first() if export is not None else None

    merged = offered.filter(trained_from__train=target.pk).order_by("-pk").first()
    if merged is not None:
        return merged

    run = TrainRun.objects.visible_to(reader).filter(pk=target.pk).first()
    return offered.filter(pk=run.base_model_id).first() if run is not None else None

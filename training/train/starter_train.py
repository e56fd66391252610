"""Try it: a sample dataset and the settings of a short train, for people who have no data of their
own yet."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User

from core.errors import UserError
from core.upload import ReceivedFile
from datasets_app.models import Dataset
from datasets_app.services import dataset_create
from methods.models import TrainingMethod
from models_app.models import BaseModel
from training.train.demo_rows import DESCRIPTION, NAME, demo_jsonl

FILE_NAME = "help-desk.jsonl"
METHOD = "lora"
TRAIN_NAME = "my-first-train"

# As in `make demo`: a model of 135 million parameters learns the house format in about two minutes
# on two cores.
PARAMETERS: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "max_tokens": 256,
    "evaluation_every": 0.25,
    "sample_prompts": 4,
    "sample_max_tokens": 64,
    "save_strategy": "end",
}


@dataclass(frozen=True)
class SampleTrain:
    """The ingredients of a short first train; the body of POST /api/v1/trains/."""

    method: TrainingMethod
    base_model: BaseModel
    dataset: Dataset
    parameters: dict[str, Any]
    name: str = TRAIN_NAME


def sample_base_model(user: User) -> BaseModel | None:
    """The smallest base model that this person can train."""
    return BaseModel.objects.visible_to(user).offered().order_by("parameter_count", "pk").first()


def sample_is_offered(user: User) -> bool:
    """Whether there is a method and a base model to try."""
    has_method = TrainingMethod.objects.offered().filter(slug=METHOD).exists()
    return has_method and sample_base_model(user) is not None


def sample_train(*, by: User) -> SampleTrain:
    """Create the sample dataset, once for each person. Returns what to train with it.

    Raises UserError where there is no base model or no method to try.
    """
    method = TrainingMethod.objects.offered().filter(slug=METHOD).first()
    base_model = sample_base_model(by)
    if method is None or base_model is None:
        raise UserError("There is no base model to try yet. Add one first, or ask your operator.")

    return SampleTrain(method, base_model, sample_dataset(by=by), dict(PARAMETERS))


def sample_dataset(*, by: User) -> Dataset:
    """This person's sample dataset, checked and ready."""
    own = Dataset.objects.filter(owner=by, file_name=FILE_NAME, name=NAME, archived_at=None)
    dataset = own.exclude(status=Dataset.Status.FAILED).order_by("pk").first()
    if dataset is None:
        dataset = _create(by)

    if dataset.status == Dataset.Status.CHECKING:
        # These 90 rows are checked at once, so that the form behind the button can be filled.
        from datasets_app.checking import dataset_check

        dataset_check(dataset.pk)
        dataset.refresh_from_db()

    return dataset


def _create(by: User) -> Dataset:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE_NAME
        path.write_text(demo_jsonl(), encoding="utf-8")
        file = ReceivedFile.copy_of(path)

    return dataset_create(owner=by, file=file, name=NAME, description=DESCRIPTION)

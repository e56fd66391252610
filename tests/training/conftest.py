"""Rows of trains without their files; what runs for real stands in tests/e2e."""

import itertools
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from core.store import runs_folder
from datasets_app.models import Dataset
from methods.models import TrainingMethod
from methods.services import methods_install
from models_app.models import BaseModel
from training.models import TrainRun


@pytest.fixture
def make_train(alice) -> Callable[..., TrainRun]:
    """A train of Alice's with the given fields."""
    # Ids begin at 1 in every test, and the files of another test's train of that id would be taken
    # for its own.
    shutil.rmtree(runs_folder(), ignore_errors=True)
    method = TrainingMethod.objects.create(
        slug="lora-test", name="LoRA", description="-", needs="-", recipe="sft"
    )
    model = BaseModel.objects.create(
        name="Tiny", slug="tiny", source="gguf", reference="tiny.gguf", status="ready", shared=True
    )
    data = Dataset.objects.create(
        owner=alice,
        name="Toys",
        slug="toys",
        file_name="toys.jsonl",
        file_type="jsonl",
        size_bytes=1,
        sha256="0" * 64,
        status="ready",
        format="messages",
        row_count=10,
    )

    def make(**fields) -> TrainRun:
        values = {
            "owner": alice,
            "name": "toy-train",
            "method": method,
            "base_model": model,
            "dataset": data,
        }
        return TrainRun.objects.create(**values | {"parameters": {}} | fields)

    return make


@pytest.fixture
def stand(make_train):
    numbers = itertools.count()

    def stand(name: str, **fields) -> TrainRun:
        run = make_train(name=name, place=next(numbers), **fields)
        run.directory.mkdir(parents=True, exist_ok=True)
        return run

    return stand


@pytest.fixture
def choices(alice, make_train) -> dict[str, Any]:
    """What Alice chose for a train that can start."""
    methods_install()
    model = BaseModel.objects.get(slug="tiny")
    BaseModel.objects.filter(pk=model.pk).update(
        context_length=2048, linear_modules=["q_proj", "v_proj"], tokenizer_sha256="1" * 64
    )
    model.refresh_from_db()
    model.path.mkdir(parents=True, exist_ok=True)
    dataset = Dataset.objects.get(slug="toys")
    file_make(dataset)

    return {
        "owner": alice,
        "method": TrainingMethod.objects.get(slug="lora"),
        "base_model": model,
        "dataset": dataset,
        "parameters": {},
    }


def file_make(dataset: Dataset) -> None:
    dataset.path.parent.mkdir(parents=True, exist_ok=True)
    dataset.path.write_text("{}\n")

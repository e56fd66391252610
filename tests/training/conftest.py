"""Rows of trains without their files; what runs for real stands in tests/e2e."""

import shutil
from collections.abc import Callable

import pytest

from core.store import runs_folder
from datasets_app.models import Dataset
from methods.models import TrainingMethod
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

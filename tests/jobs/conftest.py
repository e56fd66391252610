"""Rows of jobs that no worker ever does."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from datasets_app.models import Dataset, TokenLengths
from jobs.models import Job
from models_app.models import BaseModel
from tests.training.conftest import make_train  # noqa: F401 - a fixture


@pytest.fixture(autouse=True)
def home(tmp_path, settings):
    """Numbers begin at 1 in every test, and so would the folders of logs."""
    settings.HOME = tmp_path / "home"


@pytest.fixture
def make_job(alice) -> Callable[..., Job]:
    """A waiting check of Alice's, or what `values` make of it."""

    def make(**values) -> Job:
        usual = {
            "owner": alice,
            "kind": "dataset-check",
            "name": "letters",
            "arguments": [0],
            "lane": Job.Lane.QUICK,
        }
        return Job.objects.create(**usual | values)

    return make


@pytest.fixture
def make_subject(alice) -> Callable[..., Dataset | BaseModel | TokenLengths]:
    """What a job of that kind is about, and may be linked to."""
    numbers = count()

    def make(kind: str, owner=alice) -> Dataset | BaseModel | TokenLengths:
        slug = f"subject-{next(numbers)}"
        if kind == "model-import":
            return BaseModel.objects.create(
                owner=owner, name=slug, slug=slug, source="gguf", reference=f"{slug}.gguf"
            )

        dataset = Dataset.objects.create(
            owner=owner,
            name=slug,
            slug=slug,
            file_name="rows.jsonl",
            file_type="jsonl",
            size_bytes=1,
            sha256="0" * 64,
        )
        if kind == "token-count":
            return TokenLengths.objects.create(dataset=dataset, tokenizer="0" * 64)

        return dataset

    return make


def log_write(job: Job, text: str) -> None:
    job.directory.mkdir(parents=True, exist_ok=True)
    job.log_path.write_text(text)

"""A home of its own for each test, a model whose files are there, and one that was trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.merging.folder import MergeRequest, model_write
from engine.proof.__main__ import main as prove
from exports.models import Export
from models_app.models import BaseModel
from tests.engine.runs import train
from tests.tiny import tiny_model

SYSTEM_PROMPT = "Answer in one line."


@pytest.fixture(autouse=True)
def home(tmp_path, settings) -> Path:
    """DEEPEXTENSION_HOME, empty."""
    folder = tmp_path / "home"
    (folder / "tmp").mkdir(parents=True)
    settings.HOME = folder
    settings.DISK_RESERVE_BYTES = 0
    return folder


@dataclass(frozen=True)
class Trained:
    """What a train and a merge left, for tests to copy."""

    base: Path
    merged: Path
    adapter: Path
    reference: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp("exports")
    base = tiny_model(folder / "tiny")
    given = {"max_steps": 30, "evaluation_split": 0.2, "sample_prompts": 2, "sample_max_tokens": 8}
    run = train(folder / "run", base, system_prompt=SYSTEM_PROMPT, **given).directory
    merged = folder / "merged"
    model_write(MergeRequest(run), merged, lambda share: None)
    reference = folder / "reference.json"
    assert prove([str(run), str(merged), "--reference", str(reference)]) == 0

    return Trained(base, merged, run / "model", reference)


@pytest.fixture
def base(db, alice, trained) -> BaseModel:
    """A model of hers that was added from a hub."""
    model = BaseModel.objects.create(
        owner=alice,
        name="Tiny",
        slug="tiny",
        source="hub",
        reference="org/tiny@main",
        status="ready",
        size_bytes=2_000_000,
        parameter_count=500_000,
        licence="apache-2.0",
    )
    shutil.copytree(trained.base, model.path)
    return model


@pytest.fixture
def model(base, trained) -> BaseModel:
    """A model that was trained from it."""
    model = BaseModel.objects.create(
        owner=base.owner,
        name="Help desk",
        slug="help-desk",
        source="train",
        reference="train 1",
        status="ready",
        parent=base,
        size_bytes=2_000_000,
        parameter_count=500_000,
        licence="apache-2.0",
        trained_from={
            "train": 1,
            "name": "help desk",
            "method": "LoRA",
            "step": 0,
            "precision": "auto",
            "base_model": {"id": base.pk, "name": base.name},
        },
    )
    shutil.copytree(trained.merged, model.path)
    shutil.copytree(trained.adapter, model.adapter_path)
    shutil.copyfile(trained.reference, model.reference_path)
    return model


@pytest.fixture
def make_export(model) -> Callable[..., Export]:
    """A row of an export with the given fields, ready, with one file."""

    def make(**fields) -> Export:
        files = fields.pop("contents", {"model.gguf": b"weights"})
        values = {
            "model": model,
            "format": "gguf",
            "options": {"quantization": "f16"},
            "status": "ready",
            "proof": {"passed": True, "checks": []},
            "files": [
                {"name": name, "size_bytes": len(content), "sha256": "0" * 64}
                for name, content in files.items()
            ],
        }
        export = Export.objects.create(**values | fields)
        for name, content in files.items():
            path = export.files_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

        return export

    return make


@pytest.fixture(autouse=True)
def programs_begin_at_once(warm_programs) -> None:
    """Many of these tests start one or several."""

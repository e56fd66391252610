"""One row of everything that can belong to a person, with its files; each holds CANARY wherever text can stand.

Every row has the id NUMBER, so that any address can be filled in without knowing what it is the address of.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from django.contrib.auth.models import User
from knox.models import get_token_model

from core.ownership import Owned, owned_models
from core.store import trials_folder
from datasets_app.models import Dataset, DatasetProblem, Label
from engine.rewards.trial import RESULT
from engine.rundir import LOG, MODEL
from methods.models import TrainingMethod
from methods.services import methods_install
from models_app.models import BaseModel
from training.models import Checkpoint, MetricRow, Notice, Sample, TrainRun

CANARY = "canary-of-alice"
NUMBER = 77
TRIAL = f"{NUMBER}-{'0' * 32}"


@dataclass
class World:
    owner: User
    label: Label
    dataset: Dataset
    model: BaseModel
    run: TrainRun

    @property
    def owned(self) -> dict[type[Owned], Owned]:
        return {Dataset: self.dataset, BaseModel: self.model, TrainRun: self.run}


def world_make(owner: User) -> World:
    label = Label.objects.create(pk=NUMBER, name=f"{CANARY}-label")
    dataset = dataset_make(owner, label)
    model = model_make(owner)
    run = train_make(owner, dataset, model)
    world = World(owner, label, dataset, model, run)

    missing = set(owned_models()) - set(world.owned)
    assert not missing, f"tests/world.py makes no row of {missing}"
    return world


def dataset_make(owner: User, label: Label) -> Dataset:
    content = json.dumps({"question": f"{CANARY} asks", "answer": f"{CANARY} answers"}).encode() + b"\n"
    dataset = Dataset.objects.create(
        pk=NUMBER,
        owner=owner,
        name=f"{CANARY} dataset",
        slug=f"{CANARY}-dataset",
        description=f"{CANARY} description",
        file_name=f"{CANARY}.jsonl",
        file_type="jsonl",
        size_bytes=len(content),
        sha256="0" * 64,
        status=Dataset.Status.READY,
        format="question-answer",
        column_map={"question": "question", "answer": "answer"},
        columns=[{"name": "question", "type": "text"}, {"name": "answer", "type": "text"}],
        row_count=1,
        problem_count=1,
    )
    dataset.labels.add(label)
    DatasetProblem.objects.create(dataset=dataset, line=1, field="answer", value=CANARY, reason=f"{CANARY} is odd")
    write(dataset.path, content)
    write(dataset.marks_path, b"[[0, 0, 1]]")
    return dataset


def model_make(owner: User) -> BaseModel:
    model = BaseModel.objects.create(
        pk=NUMBER,
        owner=owner,
        name=f"{CANARY} model",
        slug=f"{CANARY}-model",
        description=f"{CANARY} description",
        source="gguf",
        reference=f"{CANARY}.gguf",
        status=BaseModel.Status.READY,
        architecture=f"{CANARY}ForCausalLM",
        chat_template=f"{CANARY} template",
        linear_modules=[f"{CANARY}_proj"],
        licence=f"{CANARY} licence",
    )
    write(model.path / "config.json", b"{}")
    return model


def train_make(owner: User, dataset: Dataset, model: BaseModel) -> TrainRun:
    if not TrainingMethod.objects.exists():
        methods_install()
    run = TrainRun.objects.create(
        pk=NUMBER,
        owner=owner,
        name=f"{CANARY} train",
        notes=f"{CANARY} notes",
        method=TrainingMethod.objects.get(slug="lora"),
        base_model=model,
        dataset=dataset,
        evaluation_dataset=dataset,
        parameters={"learning_rate": 1e-4},
        system_prompt=f"{CANARY} system prompt",
        status=TrainRun.Status.FAILED,
        error_code="bad_data",
        error=f"{CANARY} error",
        error_advice=f"{CANARY} advice",
        warnings=[{"code": "x", "message": f"{CANARY} warning"}],
        worker=f"{CANARY}-worker",
        step=2,
        total_steps=4,
    )
    MetricRow.objects.create(run=run, seq=1, step=1, time=1e9, values={"loss": 1.0, f"{CANARY}_metric": 1.0})
    Sample.objects.create(run=run, seq=2, index=0, stage="before", prompt=f"{CANARY} prompt", text=f"{CANARY} says")
    Sample.objects.create(run=run, seq=3, index=0, stage="completion", prompt=f"{CANARY} prompt", text=CANARY)
    Checkpoint.objects.create(run=run, step=2, time=1e9)
    Notice.objects.create(
        pk=NUMBER, run=run, attempt=1, status="failed", way="webhook", error=f"{CANARY} was not taken", tries=99
    )
    write(run.directory / LOG, f"{CANARY} log\n".encode())
    write(run.directory / MODEL / "adapter_config.json", b'{"of": "%s"}' % CANARY.encode())
    answer = {"prompt": CANARY, "reference": CANARY, "text": CANARY, "rewards": {}, "total": 0}
    write(trials_folder() / TRIAL / RESULT, json.dumps({"answers": [answer], "error": ""}).encode())
    return run


def token_make(owner: User) -> str:
    return get_token_model().objects.create(user=owner)[1]


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

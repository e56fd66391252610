"""One row of everything that can belong to a person, with its files; each holds a word wherever
text can stand.

Every row has the same id, so that any address can be filled in without knowing what it is the
address of.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from django.contrib.auth.models import User
from django.utils import timezone
from knox.models import get_token_model

from chains.models import Chain, Stage
from core.ownership import Owned, owned_models
from core.store import trials_folder
from datasets_app.models import Dataset, DatasetProblem, Label
from engine.contract.rundir import LOG, MODEL
from engine.rewards.trial import RESULT
from exports.models import Export
from jobs.models import Job, Notice
from methods.models import TrainingMethod
from methods.services import method_defaults, methods_install
from models_app.models import BaseModel
from openai_api.models import Batch, Call, File, FineTuningJob, StoredResponse, Upload
from playground.models import Answer, Conversation, Feedback, Turn
from sweeps.models import Sweep, Trial
from training.models import Checkpoint, MetricRow, Sample, TrainRun

CANARY = "canary-of-alice"
NUMBER = 77
TRIAL = f"{NUMBER}-{'0' * 32}"


def world_make(owner: User, number: int = NUMBER, canary: str = CANARY) -> World:
    """Everything of `owner`, under the id `number`, and `canary` in all texts."""
    label = Label.objects.create(pk=number, name=f"{canary}-label")
    dataset = dataset_make(owner, label, number, canary)
    model = model_make(owner, number, canary)
    export_make(model, number, canary)
    run = train_make(owner, dataset, model, number, canary)
    job = job_make(owner, number, canary)
    chain = chain_make(run, number, canary)
    sweep = sweep_make(run, number, canary)
    openai_make(run, number, canary)
    conversation = conversation_make(owner, model, run, number, canary)
    world = World(owner, label, dataset, model, run, job, chain, sweep, conversation)

    missing = set(owned_models()) - set(world.owned)
    assert not missing, f"tests/world.py makes no row of {missing}"
    return world


def openai_make(run: TrainRun, number: int, canary: str) -> None:
    """What programs have sent through OpenAI's API."""
    identity = f"00000000-0000-4000-8000-{number:012}"
    # A job answers what its train does.
    usual = method_defaults(run.method)
    TrainRun.objects.filter(pk=run.pk).update(parameters=usual | run.parameters, defaults=usual)
    file = File.objects.create(
        pk=number,
        public_id=identity,
        user=run.owner,
        purpose="batch",
        file_name=f"{canary}.jsonl",
        size_bytes=1,
        sha256="0" * 64,
    )
    write(file.path, f"{canary} asks\n".encode())
    Upload.objects.create(
        pk=number,
        public_id=identity,
        user=run.owner,
        purpose="batch",
        file_name=f"{canary}.jsonl",
        size_bytes=1,
        expires_at=timezone.now(),
    )
    FineTuningJob.objects.create(
        pk=number,
        public_id=identity,
        user=run.owner,
        train=run,
        model_name=f"{canary}-model",
        training_file=f"{canary}-file",
        method={"type": "supervised", "supervised": {}},
        suffix=f"{canary}"[:64],
        seed=1,
        metadata={"about": canary},
    )
    asked_make(run.owner, number, canary)


def asked_make(owner: User, number: int, canary: str) -> None:
    """What asking models leaves."""
    Call.objects.create(
        pk=number,
        user=owner,
        at=timezone.now(),
        method="POST",
        path="/v1/chat/completions",
        model=f"{canary}-model",
        status=200,
        seconds=1,
    )
    StoredResponse.objects.create(
        pk=number,
        public_id=str(number),
        owner=owner,
        expires_at=timezone.now() + timedelta(days=1),
        body={"id": str(number), "output": [canary]},
        messages=[{"role": "user", "content": canary}],
    )
    Batch.objects.create(
        pk=number,
        public_id=str(number),
        owner=owner,
        endpoint="/v1/chat/completions",
        input_file_id=f"{canary}-file",
        completion_window="24h",
        metadata={"about": canary},
        model=f"{canary}-model",
        expires_at=timezone.now() + timedelta(days=1),
    )


@dataclass
class World:
    owner: User
    label: Label
    dataset: Dataset
    model: BaseModel
    run: TrainRun
    job: Job
    chain: Chain
    sweep: Sweep
    conversation: Conversation

    @property
    def owned(self) -> dict[type[Owned], Owned]:
        return {
            Dataset: self.dataset,
            BaseModel: self.model,
            TrainRun: self.run,
            Chain: self.chain,
            Sweep: self.sweep,
            Conversation: self.conversation,
        }


def dataset_make(owner: User, label: Label, number: int, canary: str) -> Dataset:
    content = (
        json.dumps({"question": f"{canary} asks", "answer": f"{canary} answers"}).encode() + b"\n"
    )
    dataset = Dataset.objects.create(
        pk=number,
        owner=owner,
        name=f"{canary} dataset",
        slug=f"{canary}-dataset",
        description=f"{canary} description",
        file_name=f"{canary}.jsonl",
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
    DatasetProblem.objects.create(
        dataset=dataset, line=1, field="answer", value=canary, reason=f"{canary} is odd"
    )
    write(dataset.path, content)
    write(dataset.marks_path, b"[[0, 0, 1]]")
    return dataset


def model_make(owner: User, number: int, canary: str) -> BaseModel:
    model = BaseModel.objects.create(
        pk=number,
        owner=owner,
        name=f"{canary} model",
        slug=f"{canary}-model",
        description=f"{canary} description",
        source="gguf",
        reference=f"{canary}.gguf",
        status=BaseModel.Status.READY,
        architecture=f"{canary}ForCausalLM",
        chat_template=f"{canary} template",
        linear_modules=[f"{canary}_proj"],
        licence=f"{canary} licence",
    )
    write(model.path / "config.json", b"{}")
    return model


def export_make(model: BaseModel, number: int, canary: str) -> Export:
    export = Export.objects.create(
        pk=number,
        model=model,
        format="gguf",
        options={"quantization": "q8_0"},
        asked_by=model.owner,
        status=Export.Status.READY,
        remark=f"{canary} remark",
        proof={"passed": True, "checks": [{"name": canary, "passed": True, "detail": canary}]},
        files=[{"name": f"{canary}.gguf", "size_bytes": 5, "sha256": "0" * 64}],
    )
    write(export.files_path / f"{canary}.gguf", canary.encode())
    return export


def train_make(
    owner: User, dataset: Dataset, model: BaseModel, number: int, canary: str
) -> TrainRun:
    if not TrainingMethod.objects.exists():
        methods_install()
    run = TrainRun.objects.create(
        # Not pk, which would be the number of its job too.
        id=number,
        owner=owner,
        name=f"{canary} train",
        notes=f"{canary} notes",
        method=TrainingMethod.objects.get(slug="lora"),
        base_model=model,
        dataset=dataset,
        evaluation_dataset=dataset,
        parameters={"learning_rate": 1e-4},
        system_prompt=f"{canary} system prompt",
        status=TrainRun.Status.FAILED,
        error_code="bad_data",
        error=f"{canary} error",
        error_advice=f"{canary} advice",
        warnings=[{"code": "x", "message": f"{canary} warning"}],
        worker=f"{canary}-worker",
        step=2,
        total_steps=4,
    )
    MetricRow.objects.create(
        run=run, seq=1, step=1, time=1e9, values={"loss": 1.0, f"{canary}_metric": 1.0}
    )
    Sample.objects.create(
        run=run, seq=2, index=0, stage="before", prompt=f"{canary} prompt", text=f"{canary} says"
    )
    Sample.objects.create(
        run=run, seq=3, index=0, stage="completion", prompt=f"{canary} prompt", text=canary
    )
    Checkpoint.objects.create(run=run, step=2, time=1e9)
    Notice.objects.create(
        pk=number,
        job=run,
        attempt=1,
        status="failed",
        way="webhook",
        error=f"{canary} was not taken",
        tries=99,
    )
    write(run.directory / LOG, f"{canary} log\n".encode())
    write(run.directory / MODEL / "adapter_config.json", b'{"of": "%s"}' % canary.encode())
    answer = {"prompt": canary, "reference": canary, "text": canary, "rewards": {}, "total": 0}
    write(
        trials_folder() / f"{number}-{'0' * 32}" / RESULT,
        json.dumps({"answers": [answer], "error": ""}).encode(),
    )
    return run


def job_make(owner: User, number: int, canary: str) -> Job:
    """The check of the dataset of that number, which has failed."""
    job = Job.objects.create(
        number=number,
        owner=owner,
        kind="dataset-check",
        name=f"{canary} check",
        arguments=[number],
        key=f"{canary}-{number}",
        lane=Job.Lane.QUICK,
        status=Job.Status.FAILED,
        error_code="failed",
        error=f"{canary} error",
        error_advice=f"{canary} advice",
        phase=f"{canary} phase",
        worker=f"{canary}-worker",
        host=f"{canary}-host",
    )
    write(job.log_path, f"{canary} log\n".encode())
    return job


def chain_make(run: TrainRun, number: int, canary: str) -> Chain:
    """The train as the first stage of a chain, which has stopped there."""
    chain = Chain.objects.create(
        pk=number,
        owner=run.owner,
        name=f"{canary} chain",
        status=Chain.Status.STOPPED,
        reason=f"{canary} failed",
    )
    asked = {"method": run.method, "dataset": run.dataset, "name": f"{canary} stage"}
    Stage.objects.create(
        chain=chain,
        position=1,
        base_model=run.base_model,
        run=run,
        began_at=timezone.now(),
        **asked,
    )
    Stage.objects.create(chain=chain, position=2, **asked)
    return chain


def sweep_make(run: TrainRun, number: int, canary: str) -> Sweep:
    """The train as the first of a sweep, which has stopped there."""
    sweep = Sweep.objects.create(
        pk=number,
        owner=run.owner,
        name=f"{canary} sweep",
        status=Sweep.Status.STOPPED,
        reason=f"{canary} failed",
        method=run.method,
        base_model=run.base_model,
        dataset=run.dataset,
        evaluation_dataset=run.evaluation_dataset,
        system_prompt=f"{canary} system prompt",
        notes=f"{canary} notes",
        labels=[f"{canary}-label"],
        space={"learning_rate": {"values": [1e-4, 2e-4]}},
        metric="eval_loss",
        search="grid",
        budget_trains=2,
    )
    Trial.objects.create(
        sweep=sweep,
        number=1,
        values={"learning_rate": 1e-4},
        run=run,
        began_at=timezone.now(),
        ended_at=timezone.now(),
        state=Trial.State.FAILED,
        reason=f"{canary} error",
    )
    return sweep


def conversation_make(
    owner: User, model: BaseModel, run: TrainRun, number: int, canary: str
) -> Conversation:
    """A prompt that the model and the train have answered, with a vote and a correction."""
    panes = [
        {
            "target": f"{kind}-{row.pk}",
            "title": f"{canary} {kind}",
            "base_title": "",
            "sampling": {},
        }
        for kind, row in (("model", model), ("train", run))
    ]
    conversation = Conversation.objects.create(
        pk=number,
        owner=owner,
        name=f"{canary} conversation",
        system_prompt=f"{canary} system prompt",
        panes=panes,
        link=f"{canary}-link-{number}",
    )
    turn = Turn.objects.create(
        pk=number,
        conversation=conversation,
        position=number,
        text=f"{canary} asks",
        blind=True,
        verdict="left",
    )
    for place, pane in enumerate(panes):
        # The places of one row of everything have its number, too.
        Answer.objects.create(
            turn=turn,
            place=number + place,
            pane=place,
            target=pane["target"],
            title=pane["title"],
            state=Answer.State.DONE,
            text=f"{canary} answers",
        )
    for kind, verdict in (("vote", "better"), ("correction", "corrected")):
        Feedback.objects.create(
            conversation=conversation,
            turn=turn,
            place=number,
            kind=kind,
            verdict=verdict,
            author=owner,
            prompt=[{"role": "user", "content": f"{canary} asks"}],
            chosen=f"{canary} answers",
            chosen_target=panes[0]["target"],
            chosen_title=panes[0]["title"],
            rejected=f"{canary} answers worse",
            rejected_target=panes[1]["target"],
            rejected_title=panes[1]["title"],
        )
    return conversation


def token_make(owner: User) -> str:
    return get_token_model().objects.create(user=owner)[1]


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

"""python -m tests.core.a_moved_home STEP: one half of a train, in the home that the environment
names.

Processes of their own, since each works on its home's database and not on the test runner's. The
training is real; the queue's Redis is not there, which only costs the wake-up calls.
"""

import json
import sys

import django

django.setup()

from django.contrib.auth import get_user_model
from django.core.management import call_command

from core.store import models_folder
from core.upload import ReceivedFile
from datasets_app.checking import dataset_check
from datasets_app.models import Dataset
from datasets_app.preview import rows_seen
from datasets_app.services import dataset_create
from engine.contract.rundir import LOG
from methods.models import TrainingMethod
from methods.services import methods_install
from models_app import importing
from models_app.models import BaseModel
from models_app.services import model_add_folder
from tests.e2e.test_main_job import toy_rows
from tests.tiny import tiny_model
from training.models import TrainRun
from training.pages.downloads import model_download
from training.train.resuming import train_resume
from training.train.services import train_create
from training.work.supervisor import supervise_next

PARAMETERS = {
    "max_steps": 6,
    "batch_size": 2,
    "save_strategy": "steps",
    "save_every": 2,
    "max_tokens": 64,
    "sample_prompts": 0,
    "evaluation_split": 0,
}


def begin() -> None:
    """A train that stops after its fourth step, as if somebody had asked for it."""
    call_command("migrate", verbosity=0, interactive=False)
    methods_install()
    alice = get_user_model().objects.create_user("alice")

    inbox = models_folder().parent / "models-inbox" / "tiny"
    inbox.mkdir(parents=True)
    tiny_model(inbox)
    model = model_add_folder(owner=alice, reference=str(inbox), name="Tiny")
    # Not tried with transformers, whose import takes longer than the train.
    importing.program_run = lambda *arguments, **options: {"example": ""}
    importing.model_import(model.pk)
    model.refresh_from_db()
    assert model.status == "ready", model.error

    rows = models_folder().parent / "tmp" / "rows.jsonl"
    rows.write_bytes(toy_rows(20))
    file = ReceivedFile.copy_of(rows)
    file.name = "rows.jsonl"
    dataset = dataset_create(owner=alice, file=file)
    dataset_check(dataset.pk)
    dataset.refresh_from_db()

    run, _ = train_create(
        owner=alice,
        name="moved",
        method=TrainingMethod.objects.get(slug="lora"),
        base_model=model,
        dataset=dataset,
        parameters=PARAMETERS | {"max_steps": 4},
    )
    supervise_next("")
    run.refresh_from_db()
    assert (run.status, run.step) == ("finished", 4), run.error
    # As a train of six steps that was stopped after four.
    values = {"status": "stopped", "parameters": run.parameters | {"max_steps": 6}}
    TrainRun.objects.filter(pk=run.pk).update(**values)


def resume() -> None:
    alice = get_user_model().objects.get()
    run = train_resume(run=TrainRun.objects.get(), by=alice)
    supervise_next("")
    run.refresh_from_db()
    dataset, model = Dataset.objects.get(), BaseModel.objects.get()
    steps = run.metrics.filter(split="train").values_list("step", flat=True)
    outcome = {
        "status": run.status,
        "error": run.error,
        "steps": list(steps),
        "rows": len(rows_seen(dataset, 0, 5)),
        "model_is_there": model.path.is_dir(),
        "download_bytes": sum(map(len, model_download(run).streaming_content)),
        "log": (run.directory / LOG).read_text()[-2000:],
    }
    print(json.dumps(outcome))  # noqa: T201


{"begin": begin, "resume": resume}[sys.argv[1]]()

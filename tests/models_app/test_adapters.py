"""The adapter of a trained model is kept beside it: whole or not at all, also of models from before
adapters were kept."""

import json
import os
import subprocess
import sys

import pytest

from core.errors import UserError
from core.store import runs_folder
from engine.contract.rundir import checkpoint_seal
from models_app.adapters import adapter_keep
from models_app.services import model_delete, models_reconcile
from tests.live import ROOT

# In a process of its own, on a database of its own: made as it stood before, filled, and upgraded.
UPGRADE = """
import json, django
django.setup()
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

before = [("models_app", "0004_trained_models"), ("jobs", "0003_notice")]
executor = MigrationExecutor(connection)
executor.migrate(before)
apps = executor.loader.project_state(before).apps
Model, Job = apps.get_model("models_app", "BaseModel"), apps.get_model("jobs", "Job")

def make(name, slug, base=None):
    origin = {} if base is None else {"train": 1, "step": 0, "base_model": {"id": base}}
    source = "hub" if base is None else "train"
    return Model.objects.create(name=name, slug=slug, source=source, trained_from=origin, status="ready").pk

base = make("Base", "base")
first = make("Help desk", "a", base)
make("help desk", "b", first)
make("Other", "c", 77)
for pk in (base, first):
    Job.objects.create(kind="model-import", arguments=[pk], key=f"model-import-{pk}", name="x")
Job.objects.create(kind="model-import", arguments=[first], name="x", status="finished")
call_command("migrate", verbosity=0)

from models_app.models import BaseModel
rows = {row.slug: row for row in BaseModel.objects.select_related("parent")}
from jobs.models import Job
print(json.dumps({
    "jobs": [[job.kind, job.key] for job in Job.objects.order_by("number")],
    **{slug: [row.title, row.parent and row.parent.slug] for slug, row in rows.items()},
}))
"""


@pytest.mark.long
def test_trained_models_of_before_have_a_parent_and_a_version(tmp_path):
    env = os.environ | {
        "DEEPEXTENSION_HOME": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "deepextension.settings",
    }
    env.pop("DATABASE_URL", None)
    ran = subprocess.run(
        [sys.executable, "-c", UPGRADE],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == {
        "jobs": [
            ["model-import", "model-import-1"],
            ["model-merge", "model-merge-2"],
            ["model-merge", None],
        ],
        "base": ["Base", None],
        "a": ["Help desk · v1", "base"],
        "b": ["help desk · v2", "a"],
        "c": ["Other · v1", None],
    }


@pytest.fixture
def make_trained(make_model, alice):
    """A ready trained model, as versions left it that kept no adapter; its train's files where
    `files` names them."""

    def make(step=0, files=("adapter_model.safetensors", "adapter_config.json")):
        origin = {"train": 1, "step": step, "base_model": {"id": make_model().pk}}
        model = make_model(source="train", owner=alice, version="1", trained_from=origin)
        model.path.mkdir(parents=True)
        folder = runs_folder() / "1" / (f"checkpoints/checkpoint-{step}" if step else "model")
        if files:
            folder.mkdir(parents=True)
            for name in files:
                (folder / name).write_text(f"{name} of step {step}")
            if step:
                checkpoint_seal(folder)

        return model

    return make


@pytest.mark.parametrize("step", [0, 20])
def test_it_is_taken_from_the_train_while_that_is_there(make_trained, step, alice):
    model = make_trained(step)
    assert not model.has_adapter
    models_reconcile()
    assert model.has_adapter
    kept = {path.name: path.read_text() for path in model.adapter_path.iterdir()}
    assert kept == {
        name: f"{name} of step {step}"
        for name in ("adapter_model.safetensors", "adapter_config.json")
    }

    model_delete(model=model, by=alice)
    assert not model.trained_path.exists()


def test_why_there_is_none_is_said(make_trained, make_model):
    assert "not trained here" in adapter_keep(make_model())
    assert "its train is gone" in adapter_keep(make_trained(files=()))
    assert "trained whole" in adapter_keep(make_trained(files=("model.safetensors",)))


def test_a_cut_checkpoint_gives_none(make_trained):
    model = make_trained(step=20)
    weights = runs_folder() / "1" / "checkpoints" / "checkpoint-20" / "adapter_model.safetensors"
    weights.write_text("cut")
    assert "cut or damaged" in adapter_keep(model)
    assert not model.trained_path.exists()


def test_a_full_disk_leaves_nothing_half_written(make_trained, settings):
    model = make_trained()
    settings.DISK_RESERVE_BYTES = 10**18
    with pytest.raises(UserError, match="disk space"):
        adapter_keep(model)
    models_reconcile()
    assert not model.trained_path.exists()


@pytest.mark.parametrize("left", ["", "adapter.tmp", "adapter"])
def test_what_was_left_half_made_is_made_again(make_trained, left):
    """`left` of an earlier try, in the folder of what is kept."""
    model = make_trained()
    (model.trained_path / left).mkdir(parents=True)
    models_reconcile()
    assert model.has_adapter
    assert [path.name for path in model.trained_path.iterdir()] == ["adapter"]

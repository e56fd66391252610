"""A home from before: nobody's things are published, staff keeps its rights, nothing is lost."""

import json
import os
import subprocess
import sys

import pytest

from tests.live import ROOT

pytestmark = pytest.mark.long

# In a process of its own, on a database of its own: made as it stood before, filled, and upgraded.
UPGRADE = """
import json, django
django.setup()
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

loader = MigrationExecutor(connection).loader
changes = [node for node in loader.graph.nodes if node[1].endswith("_shared_with_everyone")]
assert len(changes) == 3
before = [(app, loader.graph.node_map[app, name].parents) for app, name in changes]
targets = [parent.key for app, parents in before for parent in parents if parent.key[0] == app]
executor = MigrationExecutor(connection)
executor.migrate(targets)
apps = executor.loader.project_state(targets).apps

User = apps.get_model("auth", "User")
alice = User.objects.create(username="alice")
User.objects.create(username="stan", is_staff=True)
User.objects.create(username="olga", is_staff=True, is_superuser=True)

Model, Dataset = apps.get_model("models_app", "BaseModel"), apps.get_model("datasets_app", "Dataset")
common = {"source": "gguf", "reference": "x.gguf", "status": "ready"}
base = Model.objects.create(name="SmolLM2", slug="smollm2-135m-instruct", **common)
for number, owner in enumerate((alice, None)):
    Model.objects.create(name="m", slug=f"m{number}", owner=owner, **common)
    data = Dataset.objects.create(
        name="d", slug=f"d{number}", owner=owner, file_name="d", file_type="jsonl", size_bytes=1, sha256="0"
    )
    method, _ = apps.get_model("methods", "TrainingMethod").objects.get_or_create(slug="m", name="m", recipe="sft")
    apps.get_model("training", "TrainRun").objects.create(
        name="t", owner=owner, method=method, base_model=base, dataset=data, parameters={}
    )

call_command("migrate", verbosity=0)

from django.contrib.auth.models import Group, User
from core.ownership import owned_models
from training.models import TrainRun

alice, stan = (User.objects.get(username=name) for name in ("alice", "stan"))
print(json.dumps({
    "rows": {kind.__name__: kind.objects.count() for kind in owned_models()},
    "shared": [row.slug for kind in owned_models() for row in kind.objects.filter(shared=True)],
    "alice": {kind.__name__: sorted(
        row.owner.username if row.owner else "-" for row in kind.objects.visible_to(alice)) for kind in owned_models()},
    "stan": {kind.__name__: kind.objects.visible_to(stan).count() for kind in owned_models()},
    "operators": sorted(Group.objects.get(name="Operators").user_set.values_list("username", flat=True)),
    "queue": stan.has_perm("training.manage_queue"),
}))
"""


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    env = os.environ | {
        "DEEPEXTENSION_HOME": str(home),
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
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1]), ran.stderr


def test_nothing_is_lost_and_only_what_came_with_the_platform_is_shared(upgraded):
    state, _ = upgraded
    assert state["rows"] == {
        "Dataset": 2,
        "BaseModel": 3,
        "TrainRun": 2,
        "Chain": 0,
        "Sweep": 0,
        "Conversation": 0,
    }
    assert state["shared"] == ["smollm2-135m-instruct"]


def test_what_deleted_accounts_left_is_no_longer_everybodys(upgraded):
    state, said = upgraded
    assert state["alice"] == {
        "Dataset": ["alice"],
        "BaseModel": ["-", "alice"],
        "TrainRun": ["alice"],
        "Chain": [],
        "Sweep": [],
        "Conversation": [],
    }
    assert "Dataset: 1 without an owner" in said


def test_staff_keeps_what_it_did(upgraded):
    state, said = upgraded
    assert state["operators"] == ["stan"]
    assert state["stan"] == {
        "Dataset": 2,
        "BaseModel": 3,
        "TrainRun": 2,
        "Chain": 0,
        "Sweep": 0,
        "Conversation": 0,
    }
    assert state["queue"]
    assert "Added to the group Operators: stan" in said

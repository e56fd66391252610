"""A home that was written before trains and background work were one kind of thing opens with
everything in it: tests/homes/before_jobs.sql, written by that version itself."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live import ROOT

DUMP = ROOT / "tests" / "homes" / "before_jobs.sql"
SAME = (
    "id",
    "name",
    "status",
    "attempt",
    "resumes",
    "priority",
    "place",
    "phase",
    "discards",
    "events_offset",
    "error_code",
    "error",
    "error_advice",
    "worker",
    "host",
    "process",
    "created_at",
    "started_at",
    "finished_at",
    "heartbeat_at",
    "earlier_seconds",
    "owner_id",
    "shared",
    "idempotency_key",
    "notes",
    "step",
    "total_steps",
    "best_value",
    "last_seq",
)
BOOLEANS = {"discards", "shared"}
TABLES = (
    "training_metricrow",
    "training_sample",
    "training_checkpoint",
    "training_trainlabel",
    "training_trainqueue",
    "training_metricstretch",
    "datasets_app_dataset",
    "datasets_app_tokenlengths",
    "models_app_basemodel",
    "auth_user",
)

# In a process of its own, as an upgrade is.
UPGRADE = """
import json, django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)

from django.contrib.auth.models import Group, User
from django.db import connection
from jobs.models import Job, Notice
from jobs.services import jobs_reconcile
from training.models import TrainQueue, TrainRun
from training.work.queue import waiting

same, tables = json.loads(%r)
def plain(value):
    return value.isoformat(sep=" ").removesuffix("+00:00") if hasattr(value, "isoformat") else value

counts = {}
with connection.cursor() as cursor:
    for table in tables:
        cursor.execute(f"SELECT COUNT(*) FROM {table}")
        counts[table] = cursor.fetchone()[0]

watchers = Group.objects.get(name="Watchers")
found = {
    "trains": [[plain(getattr(run, name)) for name in same] for run in TrainRun.objects.order_by("id")],
    "after": {run.pk: run.predecessor.pk for run in TrainRun.objects.exclude(starts_after=None)},
    "queue": [run.pk for run in waiting()],
    "paused": TrainQueue.objects.get().reason,
    "notices": list(Notice.objects.values_list("job__trainrun", "way", "tries")),
    "counts": counts,
    "background": [
        [job.kind, job.name, job.arguments, job.status, job.lane, job.resumes, job.error, job.owner_id]
        for job in Job.objects.exclude(kind="train").order_by("number")
    ],
    "rights": sorted(watchers.permissions.values_list("codename", flat=True)),
}
watcher = watchers.user_set.get()
found["watcher"] = watcher.has_perm("jobs.view_job")

jobs_reconcile()
found["afterwards"] = sorted(Job.objects.exclude(kind="train").values_list("kind", "status"))

# What is started next gets numbers of its own.
run = TrainRun.objects.order_by("-id").first()
before = {run.pk, run.number}
run.idempotency_key = None
run.pk = run.id = run.number = run.job_id = None
run._state.adding = True
run.save()
found["next"] = [run.pk, run.number, sorted(before)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def before():
    """The database as the version before has left it."""
    database = sqlite3.connect(":memory:")
    database.executescript(DUMP.read_text())
    yield database
    database.close()


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory):
    home: Path = tmp_path_factory.mktemp("home")
    database = sqlite3.connect(home / "db.sqlite3")
    database.executescript(DUMP.read_text())
    database.close()
    ran = subprocess.run(
        [sys.executable, "-c", UPGRADE % json.dumps([SAME, TABLES])],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        | {"DEEPEXTENSION_HOME": str(home), "DJANGO_SETTINGS_MODULE": "deepextension.settings"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_every_train_is_as_it_was(before, upgraded):
    columns = ", ".join(SAME)
    rows = before.execute(f"SELECT {columns} FROM training_trainrun ORDER BY id").fetchall()
    assert len(rows) > 10
    assert {row[2] for row in rows} == {"queued", "running", "finished", "failed", "stopped"}
    expected = [
        [bool(value) if name in BOOLEANS else value for name, value in zip(SAME, row, strict=True)]
        for row in rows
    ]
    assert upgraded["trains"] == expected


def test_what_trains_left_is_all_there(before, upgraded):
    for table in TABLES:
        (count,) = before.execute(f"SELECT COUNT(*) FROM {table}").fetchone()
        assert upgraded["counts"][table] == count, table
    assert upgraded["counts"]["training_metricrow"] > 20


def test_the_queue_is_in_the_same_order_and_still_paused(before, upgraded):
    in_order = before.execute(
        "SELECT id FROM training_trainrun WHERE status = 'queued' ORDER BY priority DESC, place, id"
    )
    assert upgraded["queue"] == [number for (number,) in in_order]
    assert len(upgraded["queue"]) > 1
    after = before.execute("SELECT id, after_id FROM training_trainrun WHERE after_id NOT NULL")
    assert upgraded["after"] == {str(number): other for number, other in after}
    assert upgraded["after"]
    assert upgraded["paused"] == "Air conditioning"


def test_notices_that_were_not_sent_are_still_to_be_sent(before, upgraded):
    rows = before.execute("SELECT run_id, way, tries FROM training_notice").fetchall()
    assert upgraded["notices"] == [list(row) for row in rows]
    assert rows


def test_background_work_waits_in_its_order_and_what_was_given_up_says_why(upgraded):
    kinds = [
        (kind, status, lane, resumes)
        for kind, _, _, status, lane, resumes, _, _ in upgraded["background"]
    ]
    assert kinds == [
        ("reward-trial", "failed", 0, 3),
        ("password-reset", "queued", 0, 1),
        ("dataset-check", "queued", 0, 0),
        ("token-count", "running", 1, 1),
        ("model-import", "stopping", 2, 0),
    ]
    by_kind = {job[0]: job for job in upgraded["background"]}
    assert by_kind["reward-trial"][6] == "The process ended with -9."
    assert by_kind["reward-trial"][7] is None, "whose account is gone"
    assert by_kind["dataset-check"][7] is not None
    assert by_kind["dataset-check"][1], "it says what it is about"


def test_what_ran_when_the_platform_was_stopped_begins_again_or_ends(upgraded):
    assert ["token-count", "queued"] in upgraded["afterwards"]
    assert ["model-import", "stopped"] in upgraded["afterwards"]


def test_who_saw_background_work_sees_jobs(upgraded):
    assert upgraded["watcher"]
    assert upgraded["rights"] == ["view_job"]


def test_what_is_started_next_has_numbers_of_its_own(upgraded):
    number, job, before = upgraded["next"]
    assert number > max(before) or number not in before
    assert job not in before

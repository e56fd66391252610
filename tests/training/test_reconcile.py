"""The housekeeping goes on, whatever one train or one of its steps comes to."""

import errno
import os

import pytest
from django.core.management import call_command
from django.db import DataError, InternalError, OperationalError

from engine.contract.rundir import write_spec
from tests.training.test_resuming import SPEC
from training.models import TrainRun
from training.train import resuming
from training.work import reconcile as house_keeping

LOST = {"status": "running", "host": os.uname().nodename, "process": "1:1"}


@pytest.fixture
def lost(make_train):
    """Two trains whose worker is gone, in the order in which they are looked at."""

    def make() -> TrainRun:
        run = make_train(**LOST)
        run.directory.mkdir(parents=True, exist_ok=True)
        write_spec(run.directory, SPEC)
        run.base_model.path.mkdir(parents=True, exist_ok=True)
        return run

    make(), make()
    return list(TrainRun.objects.active())


@pytest.fixture
def later(monkeypatch):
    """Whether what stands last in the housekeeping is reached."""
    reached = []
    monkeypatch.setattr(house_keeping, "_also", [lambda: reached.append(True)])
    return reached


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def statuses(runs: list[TrainRun]) -> list[tuple[str, str]]:
    rows = {run.pk: run for run in TrainRun.objects.all()}
    return [(rows[run.pk].status, rows[run.pk].error_code) for run in runs]


def begin_again_later(lost, monkeypatch):
    """Nothing is in the way any more at the next look."""
    monkeypatch.undo()
    call_command("watch", once=True)
    assert statuses(lost) == [("queued", ""), ("queued", "")]


@pytest.mark.parametrize(
    "error", [TypeError("Field 'value' expected a number"), DataError("integer out of range")]
)
def test_a_train_whose_record_cannot_be_read_fails_and_holds_up_no_other(
    lost, later, monkeypatch, error
):
    ingest = house_keeping.ingest

    def unreadable(run):
        if run.pk == lost[0].pk:
            raise error
        return ingest(run)

    monkeypatch.setattr(house_keeping, "ingest", unreadable)
    call_command("watch", once=True)

    assert statuses(lost) == [("failed", "bad_record"), ("queued", "")]
    assert "cannot be read" in TrainRun.objects.get(pk=lost[0].pk).error
    assert later


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "I/O error"),
        MemoryError(),
        OperationalError("database is locked"),
        OperationalError("deadlock detected"),
        OperationalError("could not serialize access"),
        InternalError("the index is damaged"),
    ],
)
def test_a_storage_or_database_that_is_away_for_a_moment_fails_no_train(
    lost, later, monkeypatch, error
):
    def away(run):
        raise error

    monkeypatch.setattr(house_keeping, "ingest", away)
    call_command("watch", once=True)
    assert statuses(lost) == [("running", ""), ("running", "")]
    assert later

    begin_again_later(lost, monkeypatch)


def test_a_full_disk_holds_up_only_the_trains_that_are_to_begin_again(lost, later, monkeypatch):
    monkeypatch.setattr(resuming, "spec_write", full_disk)
    call_command("watch", once=True)
    assert statuses(lost) == [("running", ""), ("running", "")]
    assert later

    begin_again_later(lost, monkeypatch)


STEPS = (
    "lost_trains_close",
    "machines_look",
    "jobs_reconcile",
    "notices_enqueue",
    "datasets_reconcile",
    "models_reconcile",
    "exports_reconcile",
    "storage_clearing_due",
)


@pytest.mark.parametrize("error", [ValueError("?"), OperationalError("database is locked")])
def test_no_step_holds_up_another(db, monkeypatch, error):
    reached = []

    def step(name):
        def fails():
            reached.append(name)
            raise error

        return fails

    for name in STEPS:
        monkeypatch.setattr(house_keeping, name, step(name))
    monkeypatch.setattr(house_keeping, "_also", [step("first"), step("second")])

    call_command("watch", once=True)
    assert reached == [*STEPS, "first", "second"]

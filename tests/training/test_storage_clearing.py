"""The storage of a cluster is cleared once a day, by a job that operators see."""

from datetime import timedelta

import pytest
from django.utils import timezone

from core.store import runs_folder
from engine.storage.errors import StorageAway, StorageRefused
from engine.storage.session import Session, owner_of
from engine.storage.settings import StorageSettings
from engine.storage.store import Store
from jobs.kinds import NotNow, function_of, kind_of
from jobs.models import Job
from training.models import TrainRun
from training.work.reconcile import reconcile
from training.work.storage_clearing import KIND, attempts_on_clusters, storage_clearing_due

pytestmark = pytest.mark.django_db


@pytest.fixture
def store(settings, tmp_path) -> Store:
    (tmp_path / "storage").mkdir()
    settings.STORAGE = StorageSettings(f"file://{tmp_path / 'storage'}")
    return Store(settings.STORAGE)


def clear() -> str:
    """As the worker of background work does it."""
    job = Job.objects.get(kind=KIND)
    told: str = function_of(kind_of(job).run)(*job.arguments)
    return told


def test_it_is_due_once_a_day(store):
    reconcile()
    reconcile()
    job = Job.objects.get(kind=KIND)
    assert job.owner is None
    assert not kind_of(job).is_listed

    Job.objects.filter(pk=job.pk).update(status=Job.Status.FINISHED)
    reconcile()
    assert Job.objects.filter(kind=KIND).count() == 1
    Job.objects.filter(pk=job.pk).update(created_at=timezone.now() - timedelta(days=1, seconds=1))
    reconcile()
    assert Job.objects.filter(kind=KIND).count() == 2


def test_without_a_storage_there_is_nothing_to_do():
    reconcile()
    assert not Job.objects.filter(kind=KIND).exists()


def test_what_trains_at_work_have_stays(store, make_train):
    at_work = make_train(status="running", attempt=2)
    Job.objects.filter(pk=at_work.job_id).update(devices=[{"machine": "ray-head:8265"}])
    over = make_train(status="failed")
    assert attempts_on_clusters() == {(at_work.pk, 2)}

    names = [
        f"{Session.new(run.pk, run.attempt, owner_of(runs_folder())).name}/inputs.json"
        for run in (at_work, over)
    ]
    for name in names:
        store.put_bytes(b"{}", name)

    # Nothing else of the housekeeping: it would find that nobody trains.
    storage_clearing_due()
    assert clear() == ""
    assert [store.exists(name) for name in names] == [True, False]

    TrainRun.objects.all().delete()
    assert clear() == ""
    assert store.list("runs") == []


@pytest.mark.parametrize("error", [StorageAway, StorageRefused])
def test_a_storage_that_is_away_is_tried_later(store, monkeypatch, error):
    def fail(self: Store, folder: str) -> list[str]:
        raise error(self.address, "says no")

    monkeypatch.setattr(Store, "list", fail)
    reconcile()
    if error is StorageAway:
        with pytest.raises(NotNow, match="says no"):
            clear()
    else:
        assert "says no" in clear()

"""Checks and counts that are cancelled, take too long or break off, and begin again."""

import pytest
from django.core.exceptions import PermissionDenied

from core.errors import UserError
from core.ownership import owner_set
from datasets_app import jobs
from datasets_app.check_queue import CHECK
from datasets_app.checking import dataset_check
from datasets_app.lengths import lengths_enqueue
from datasets_app.models import TokenLengths
from datasets_app.services import dataset_check_cancel, dataset_check_retry
from jobs.kinds import BROKE_OFF, CANCELLED, TOO_LONG
from jobs.models import Job

TOKENIZER = "1" * 64


@pytest.fixture
def count(checked, db):
    """A count of Alice's that waits, with a model of hers."""
    from models_app.models import BaseModel

    dataset = checked()
    model = BaseModel.objects.create(
        owner=dataset.owner,
        name="Tiny",
        slug="tiny",
        source="hub",
        reference="org/tiny",
        status="ready",
        tokenizer_sha256=TOKENIZER,
    )
    return TokenLengths.objects.create(
        dataset=dataset, tokenizer=TOKENIZER, model_path=str(model.path)
    )


def test_a_small_check_does_not_wait_behind_counts(upload, count):
    Job.objects.all().delete()
    lengths_enqueue(count)
    upload()
    assert Job.objects.get(kind="dataset-check").lane == Job.Lane.QUICK
    assert Job.objects.get(kind="token-count").lane == Job.Lane.NORMAL


def test_a_waiting_check_is_cancelled_and_checked_again(upload, alice):
    dataset = dataset_check_cancel(dataset=upload(), by=alice)
    assert (dataset.status, dataset.error) == (
        "failed",
        "The check was cancelled. Check it again whenever you like.",
    )
    assert not Job.objects.filter(status__in=Job.OPEN).exists()

    dataset = dataset_check_retry(dataset=dataset, by=alice)
    assert (dataset.status, dataset.error) == ("checking", "")
    assert Job.objects.filter(status="queued").count() == 1
    dataset_check(dataset.pk)
    dataset.refresh_from_db()
    assert dataset.status == "ready"


@pytest.mark.parametrize("change", [dataset_check_cancel, dataset_check_retry])
def test_only_what_can_be_is_cancelled_or_checked_again(change, checked, alice, bob):
    dataset = checked()
    with pytest.raises(PermissionDenied):
        change(dataset=dataset, by=bob)
    with pytest.raises(UserError) as caught:
        change(dataset=dataset, by=alice)
    assert caught.value.code == "wrong_state"


def test_a_check_that_nobody_works_on_is_cancelled_all_the_same(upload, alice):
    dataset = upload()
    Job.objects.all().delete()
    assert dataset_check_cancel(dataset=dataset, by=alice).status == "failed"


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        (
            TOO_LONG,
            "This took longer than the 10 minutes that it may take, and was ended. Split the file",
        ),
        (BROKE_OFF, "The check crashed several times on this file."),
        (CANCELLED, "The check was cancelled."),
    ],
)
def test_why_a_check_ended_is_said_on_its_page(reason, says, upload, alice, client):
    dataset = upload()
    jobs.check_ended(dataset.pk, reason=reason, limit_seconds=600)
    client.force_login(alice)
    page = client.get(dataset.get_absolute_url()).content.decode()
    assert says in page
    assert f"/datasets/{dataset.pk}/check/" in page


def test_what_has_ended_is_not_ended_again(checked):
    dataset = checked()
    jobs.check_ended(dataset.pk, reason=TOO_LONG, limit_seconds=1)
    dataset.refresh_from_db()
    assert dataset.status == "ready"


def test_pages_cancel_a_check_and_begin_it_again(upload, alice, client):
    client.force_login(alice)
    dataset = upload()
    assert (
        f"/datasets/{dataset.pk}/cancel/" in client.get(dataset.get_absolute_url()).content.decode()
    )
    for action, status in (("cancel", "failed"), ("check", "checking")):
        answer = client.post(f"/datasets/{dataset.pk}/{action}/")
        assert answer["Location"] == dataset.get_absolute_url()
        dataset.refresh_from_db()
        assert dataset.status == status


@pytest.mark.parametrize(
    "door",
    ["/api/v1/datasets/{pk}/lengths/{action}/?model=tiny", "/datasets/{pk}/lengths/{action}/"],
)
def test_a_count_is_cancelled_and_begun_again(door, count, alice, client):
    client.force_login(alice)
    pk = count.dataset_id
    panel = f"/datasets/{pk}/lengths/?model=tiny"
    assert f"/datasets/{pk}/lengths/cancel/" in client.get(panel).content.decode()

    assert client.post(door.format(pk=pk, action="cancel"), {"model": "tiny"}).status_code in (
        204,
        302,
    )
    count.refresh_from_db()
    assert count.error == "Counting was cancelled. Training works without it."
    assert Job.objects.get(kind="token-count").status == "stopped"
    assert f"/datasets/{pk}/lengths/retry/" in client.get(panel).content.decode()

    assert client.post(door.format(pk=pk, action="retry"), {"model": "tiny"}).status_code in (
        204,
        302,
    )
    count.refresh_from_db()
    assert (count.error, count.attempts) == ("", 0)
    assert Job.objects.filter(kind="token-count", status="queued").count() == 1


def test_a_stranger_cancels_no_count(count, bob, client):
    client.force_login(bob)
    assert client.post(f"/api/v1/datasets/{count.dataset_id}/lengths/cancel/").status_code == 404


def test_a_count_that_took_too_long_says_so(count):
    jobs.count_ended(count.pk, reason=TOO_LONG, limit_seconds=120)
    count.refresh_from_db()
    assert (
        count.error
        == "Counting took longer than 2 minutes and was ended. Training works without it."
    )


def test_a_check_that_waits_says_how_many_go_first(upload, alice, client):
    client.force_login(alice)
    upload()
    second = upload(name="second.jsonl")
    assert client.get(f"/api/v1/datasets/{second.pk}/").json()["ahead"] == 1
    assert "1 other goes first" in " ".join(
        client.get(second.get_absolute_url()).content.decode().split()
    )
    dataset_check(second.pk)
    assert client.get(f"/api/v1/datasets/{second.pk}/").json()["ahead"] is None


def test_what_is_handed_over_takes_its_open_work_along(upload, alice, bob, olga):
    dataset = upload()
    assert Job.objects.get(kind=CHECK).owner == alice
    owner_set(dataset, by=olga, owner=bob)
    assert Job.objects.get(kind=CHECK).owner == bob

"""One notice for a chain, and none for each of its trains."""

import pytest
from django.utils import timezone

from chains.services import chain_go_on
from jobs.models import Notice
from jobs.notices import webhook_body
from tests.chains.conftest import advance, merged, run_of
from training.models import TrainRun
from training.train.resuming import train_end_or_resume
from training.work.outcome import Outcome, failure


@pytest.fixture(autouse=True)
def webhook(settings):
    settings.WEBHOOK_URL = "http://127.0.0.1:9/hook"


def end(run: TrainRun, outcome: Outcome) -> None:
    """As the supervisor ends a train."""
    TrainRun.objects.filter(pk=run.pk).update(status="running")
    (run.directory / "model").mkdir(parents=True, exist_ok=True)
    run.refresh_from_db()
    assert train_end_or_resume(run, outcome)


FINISHED = Outcome(TrainRun.Status.FINISHED)


def test_a_chain_that_succeeds_sends_one_notice(make_chain):
    chain = make_chain()
    end(run_of(chain), FINISHED)
    advance(chain)
    merged(chain)
    advance(chain)
    assert not Notice.objects.exists()

    end(run_of(chain, 2), FINISHED)
    advance(chain)
    (notice,) = Notice.objects.all()
    body = webhook_body(notice)
    assert body["event"] == "chain.succeeded"
    assert (body["chain"]["id"], body["chain"]["stage"]) == (chain.pk, 2)


def test_a_chain_that_stops_says_why_and_a_train_that_is_resumed_speaks_for_itself(
    make_chain, alice
):
    chain = make_chain()
    end(run_of(chain), failure("out_of_memory", "Memory ran out.", "-"))
    advance(chain)
    (notice,) = Notice.objects.all()
    body = webhook_body(notice)
    assert body["event"] == "chain.stopped"
    assert "Memory ran out." in body["chain"]["reason"]

    TrainRun.objects.filter(pk=run_of(chain).pk).update(status="running", attempt=2)
    run = run_of(chain)
    assert train_end_or_resume(run, FINISHED)
    assert webhook_body(Notice.objects.latest("pk"))["event"] == "train.finished"

    chain_go_on(chain=chain, by=alice)
    assert Notice.objects.count() == 2


def test_each_stop_is_told_although_the_train_is_the_same(make_chain, alice):
    chain = make_chain(gate="better")
    end(run_of(chain), FINISHED)
    advance(chain)
    (first,) = Notice.objects.all()
    assert "The gate behind stage 1 is closed" in webhook_body(first)["chain"]["reason"]
    Notice.objects.update(sent_at=timezone.now(), tries=1)

    chain_go_on(chain=chain, by=alice)
    merged(chain, status="failed", error="The disk is full.")
    advance(chain)
    (second,) = Notice.objects.all()
    assert second.uuid != first.uuid
    assert second.sent_at is None
    assert "The disk is full." in webhook_body(second)["chain"]["reason"]

"""Notices of a train's end, to a real server that refuses, redirects and answers."""

import hashlib
import hmac
import json
import shutil
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from django.core import mail
from django.utils import timezone

from accounts.services import account_update
from engine.contract.rundir import write_spec
from jobs.kinds import DELIVERY_PAUSES
from jobs.models import Notice
from jobs.notices import notices_due, notices_send
from tests.training.test_resuming import SPEC
from training.models import TrainRun
from training.train.resuming import train_end_or_resume
from training.work.outcome import Outcome, failure, worker_lost


class Receiver:
    """Answers with the given codes in turn and keeps what it was sent; `elsewhere` counts who
    followed a redirect."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.calls: list[tuple[dict, bytes]] = []
        self.elsewhere = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path != "/hook":
                    receiver.elsewhere += 1
                receiver.calls.append(
                    ({name.lower(): value for name, value in self.headers.items()}, body)
                )
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver(settings):
    running = Receiver()
    settings.WEBHOOK_URL = f"http://127.0.0.1:{running.server.server_port}/hook"
    settings.WEBHOOK_SECRET = "between us"
    settings.PUBLIC_URL = "https://train.example/"
    yield running
    running.server.shutdown()


@pytest.fixture
def run(make_train):
    return make_train(name="harbour-help", status="running", step=5, total_steps=10)


def later() -> None:
    """As if the pause were over."""
    Notice.objects.update(next_at=timezone.now() - timedelta(seconds=1))


def test_a_webhook_is_called_once_with_a_signature(receiver, run):
    train_end_or_resume(run, Outcome(TrainRun.Status.FINISHED))
    assert notices_due().exists()
    assert notices_send() == 1
    later()
    assert notices_send() == 0

    ((headers, body),) = receiver.calls
    expected = hmac.new(b"between us", body, hashlib.sha256).hexdigest()
    assert headers["x-deepextension-signature"] == f"sha256={expected}"
    sent = json.loads(body)
    assert (sent["event"], sent["train"]["name"], sent["train"]["step"]) == (
        "train.finished",
        "harbour-help",
        5,
    )
    assert sent["train"]["url"] == f"https://train.example/trains/{run.pk}/"
    assert headers["x-deepextension-delivery"] == sent["id"] == str(Notice.objects.get().uuid)


def test_it_is_tried_again_under_the_same_id_until_somebody_takes_it(receiver, run):
    receiver.answers = [503, 500]
    train_end_or_resume(run, failure("out_of_memory", "The machine ran out of memory.", "-"))
    assert notices_send() == 0
    # Not before its time.
    assert notices_send() == 0
    assert len(receiver.calls) == 1
    assert "503" in Notice.objects.get().error
    later()
    assert notices_send() == 0
    later()
    assert notices_send() == 1
    assert len({headers["x-deepextension-delivery"] for headers, _ in receiver.calls}) == 1
    assert json.loads(receiver.calls[-1][1])["train"]["error"]["code"] == "out_of_memory"
    notice = Notice.objects.get()
    assert (notice.tries, notice.error) == (3, "")


def test_it_is_given_up_after_a_day_and_operators_see_why(receiver, run, client, olga):
    receiver.answers = [500] * 100
    train_end_or_resume(run, Outcome(TrainRun.Status.STOPPED))
    for _ in range(20):
        later()
        notices_send()
    assert len(receiver.calls) == len(DELIVERY_PAUSES) + 1
    assert not notices_due().exists()
    assert timedelta(hours=23) < sum(DELIVERY_PAUSES, timedelta()) < timedelta(hours=25)

    client.force_login(olga)
    page = client.get("/admin/jobs/notice/").content.decode()
    assert f"Given up after {len(receiver.calls)} tries" in page
    assert "HTTP Error 500" in page


def test_a_redirect_is_not_followed(receiver, run):
    receiver.answers = [302]
    train_end_or_resume(run, Outcome(TrainRun.Status.FINISHED))
    assert notices_send() == 0
    assert receiver.elsewhere == 0


def test_whoever_was_faster_sends_it(receiver, run, monkeypatch):
    train_end_or_resume(run, Outcome(TrainRun.Status.FINISHED))
    seen = list(Notice.objects.select_related("job__owner"))
    assert notices_send() == 1
    Notice.objects.update(sent_at=None)  # as the other saw it when it looked
    monkeypatch.setattr("jobs.notices.Notice.objects.filter", lambda **given: Seen(seen, given))
    notices_send()
    assert len(receiver.calls) == 1


class Seen:
    """What one sender saw before the other was done; an UPDATE meets what is there now."""

    def __init__(self, due, given):
        self.due, self.given = due, given

    def select_related(self, *_):
        return self.due

    def update(self, **values):
        return Notice._base_manager.filter(**self.given).update(**values)


def test_a_train_that_resumes_by_itself_sends_no_notice(receiver, run):
    """It lost its worker and resumes: nobody wants to be woken."""
    run.base_model.path.mkdir(parents=True, exist_ok=True)
    write_spec(run.directory, SPEC)
    train_end_or_resume(run, worker_lost())
    shutil.rmtree(run.base_model.path)
    assert run.status == "queued"
    assert not Notice.objects.exists()


def test_an_owner_with_an_address_gets_a_mail(run, alice, settings):
    settings.MAIL_FROM = "train@house.example"
    alice.email = "alice@house.example"
    alice.save()
    train_end_or_resume(run, failure("diverged", "The loss is no number.", "Lower the rate."))
    assert notices_send() == 1
    (letter,) = mail.outbox
    assert (letter.to, letter.subject) == (["alice@house.example"], "harbour-help has failed")
    assert "The loss is no number." in letter.body
    assert f"/trains/{run.pk}/" in letter.body


@pytest.mark.parametrize("when", ["before the end", "before the mail"])
def test_an_owner_who_has_switched_notices_off_gets_none(run, alice, settings, when):
    settings.MAIL_FROM = "train@house.example"
    account_update(user=alice, email="alice@house.example", notices=when != "before the end")
    train_end_or_resume(run, failure("diverged", "The loss is no number.", "Lower the rate."))
    account_update(user=alice, notices=False)
    notices_send()
    assert mail.outbox == []
    assert not notices_due().exists()


def test_without_an_address_or_a_sender_nothing_is_noted(run):
    train_end_or_resume(run, Outcome(TrainRun.Status.FINISHED))
    assert not Notice.objects.exists()
    assert not notices_due().exists()

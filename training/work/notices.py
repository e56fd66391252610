"""Word of a train's end by e-mail and to a webhook: tried again while nobody takes it, and told
once.

A notice is a row, written in the same transaction as the end that it tells of; one row an attempt
and way. Whoever sends it takes it first by a conditional UPDATE, so that of two senders one does.
Where a sender dies between sending and writing so down the notice goes out again, with the same id:
a receiver that remembers ids hears nothing twice."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import urllib.error
import urllib.request
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.mail import send_mail
from django.db.models import F, QuerySet
from django.utils import timezone

from accounts.services import notices_wanted
from core.chores import chore_add
from training.models import Notice, TrainRun
from training.train.durations import run_seconds

logger = logging.getLogger("deepextension.notices")

# How long until the next try.
PAUSES = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 30, 120, 600))
TIMEOUT_SECONDS = 10
Way = Notice.Way


def notices_make(run: TrainRun) -> None:
    """Note down whom to tell of the end of this train. Inside the transaction that ends it."""
    ways = []

    if settings.WEBHOOK_URL:
        ways.append(Way.WEBHOOK)
    if settings.MAIL_FROM and run.owner is not None and notices_wanted(run.owner):
        ways.append(Way.MAIL)

    if ways:
        rows = [Notice(run=run, attempt=run.attempt, status=run.status, way=way) for way in ways]
        Notice.objects.bulk_create(rows, ignore_conflicts=True)
        notices_enqueue()


def due() -> QuerySet[Notice]:
    return Notice.objects.filter(sent_at=None, next_at__lte=timezone.now(), tries__lte=len(PAUSES))


def notices_enqueue() -> None:
    """Have what is due sent."""
    if due().exists():
        chore_add("notices", key="send-notices", person=None, expected_seconds=TIMEOUT_SECONDS)


def notices_send() -> int:
    """Send what is due and return how many were taken."""
    sent = 0
    for notice in due().select_related(
        "run__owner", "run__method", "run__base_model", "run__dataset"
    ):
        pause = PAUSES[min(notice.tries, len(PAUSES) - 1)]
        mine = Notice.objects.filter(pk=notice.pk, tries=notice.tries, sent_at=None)
        if not mine.update(tries=F("tries") + 1, next_at=timezone.now() + pause):
            continue

        try:
            _deliver(notice)
        except Exception as error:
            logger.warning("notice %s of train %s not sent: %s", notice.pk, notice.run_id, error)
            Notice.objects.filter(pk=notice.pk).update(
                error=f"{type(error).__name__}: {error}"[:500]
            )
        else:
            Notice.objects.filter(pk=notice.pk).update(sent_at=timezone.now(), error="")
            sent += 1

    return sent


def _deliver(notice: Notice) -> None:
    if notice.way == Way.WEBHOOK:
        webhook_send(notice)
    else:
        mail_send(notice)


def told(notice: Notice) -> dict[str, Any]:
    """The body of a webhook call."""
    run = notice.run
    return {
        "id": str(notice.uuid),
        "event": f"train.{notice.status}",
        "train": {
            "id": run.pk,
            "name": run.name,
            "status": notice.status,
            "attempt": notice.attempt,
            "method": run.method.slug,
            "base_model": run.base_model.slug,
            "dataset": run.dataset.slug,
            "owner": run.owner.username if run.owner else None,
            "step": run.step,
            "total_steps": run.total_steps,
            "duration_seconds": run_seconds(run),
            "best_value": run.best_value,
            "error": {"code": run.error_code, "message": run.error} if run.error_code else None,
            "url": address(run),
        },
    }


def address(run: TrainRun) -> str:
    return f"{settings.PUBLIC_URL.rstrip('/')}{run.get_absolute_url()}"


def signature(body: bytes) -> str:
    """HMAC-SHA256 of the body under DEEPEXTENSION_WEBHOOK_SECRET, as "sha256=HEX"."""
    return "sha256=" + hmac.new(settings.WEBHOOK_SECRET.encode(), body, hashlib.sha256).hexdigest()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The operator named one address; whoever answers there does not send us to another."""

    def redirect_request(self, *_: Any) -> None:
        return None


def webhook_send(notice: Notice) -> None:
    """Raises OSError for anything but an answer of the 200s."""
    body = json.dumps(told(notice), ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json", "X-DeepExtension-Delivery": str(notice.uuid)}

    if settings.WEBHOOK_SECRET:
        headers["X-DeepExtension-Signature"] = signature(body)

    request = urllib.request.Request(settings.WEBHOOK_URL, body, headers)  # noqa: S310
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_SECONDS):
        pass


def mail_send(notice: Notice) -> None:
    run = notice.run
    # Asked again: the person may have switched notices off since the train ended.
    if run.owner is None or not notices_wanted(run.owner):
        return

    lines = [
        f"{run.name} (#{run.pk}), {run.method.name} on {run.base_model.name} with "
        f"{run.dataset.title}",
        f"Step {run.step:,} of {run.total_steps:,}" if run.total_steps else "",
        f"{run.error}\n{run.error_advice}" if run.error else "",
        address(run),
    ]

    word = TrainRun.Status(notice.status).label.lower()
    # A line break in a subject would be refused; a name may hold none already.
    subject = (
        f"{run.name} has {word}"
        if notice.status != TrainRun.Status.STOPPED
        else f"{run.name} is stopped"
    )

    send_mail(
        subject, "\n\n".join(filter(None, lines)) + "\n", settings.MAIL_FROM, [run.owner.email]
    )

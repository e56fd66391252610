"""Notices of a train's end, by e-mail and to a webhook.

A notice is a row, written in the same transaction as the end that it reports; one row an attempt
and way. A sender claims it first by a conditional UPDATE, so that only one of two sends it. Where a
sender dies between sending and recording that it did, the notice is sent again with the same id, by
which a receiver can recognise the duplicate.

A notice that nobody accepts is tried again after growing pauses, for a day in all, and then given
up: it stays in the admin with the error of its last try."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import urllib.error
import urllib.request
from typing import Any

from django.conf import settings
from django.core.mail import send_mail
from django.db.models import F, QuerySet
from django.utils import timezone

from accounts.services import notices_wanted
from jobs.kinds import DELIVERY_PAUSES
from jobs.services import job_add
from training.models import Notice, TrainRun
from training.train.durations import run_seconds

logger = logging.getLogger("deepextension.notices")

TIMEOUT_SECONDS = 10
Way = Notice.Way


def notices_create(run: TrainRun) -> None:
    """Record who is to be notified of the end of this train. Call it inside the transaction that
    ends the train."""
    ways = []

    if settings.WEBHOOK_URL:
        ways.append(Way.WEBHOOK)
    if settings.MAIL_FROM and run.owner is not None and notices_wanted(run.owner):
        ways.append(Way.MAIL)

    if ways:
        notices = [
            Notice(
                run=run,
                attempt=run.attempt,
                status=run.status,
                way=way,
            )
            for way in ways
        ]
        Notice.objects.bulk_create(notices, ignore_conflicts=True)
        notices_enqueue()


def notices_due() -> QuerySet[Notice]:
    return Notice.objects.filter(
        sent_at=None,
        next_at__lte=timezone.now(),
        tries__lte=len(DELIVERY_PAUSES),
    )


def notice_state(notice: Notice) -> str:
    """What has become of a notice, for operators."""
    if notice.sent_at is not None:
        return "Sent"
    if notice.tries > len(DELIVERY_PAUSES):
        return f"Given up after {notice.tries} tries"

    return "Will be tried again" if notice.tries else "Waiting"


def notices_enqueue() -> None:
    """Have a background worker send what is due."""
    if notices_due().exists():
        job_add(
            "notices",
            key="send-notices",
            name="Notices",
            owner_id=None,
            expected_seconds=TIMEOUT_SECONDS,
        )


def notices_send() -> int:
    """Send what is due and return how many were accepted."""
    sent = 0
    related = ("run__owner", "run__method", "run__base_model", "run__dataset")

    for notice in notices_due().select_related(*related):
        if _notice_claim(notice) and _notice_try(notice):
            sent += 1

    return sent


def _notice_claim(notice: Notice) -> bool:
    """Whether this sender is the one to try it now. The next try is set before this one begins, so
    that it comes even when this sender dies."""
    number = min(notice.tries, len(DELIVERY_PAUSES) - 1)
    next_at = timezone.now() + DELIVERY_PAUSES[number]

    unclaimed = Notice.objects.filter(pk=notice.pk, tries=notice.tries, sent_at=None)
    claimed = unclaimed.update(tries=F("tries") + 1, next_at=next_at)
    return bool(claimed)


def _notice_try(notice: Notice) -> bool:
    """Whether the receiver accepted it. A failure is recorded on the notice."""
    row = Notice.objects.filter(pk=notice.pk)
    try:
        _deliver(notice)
    except Exception as error:
        logger.warning("notice %s of train %s not sent: %s", notice.pk, notice.run_id, error)
        row.update(error=f"{type(error).__name__}: {error}"[:500])
        if notice.tries >= len(DELIVERY_PAUSES):
            logger.error("notice %s of train %s was given up", notice.pk, notice.run_id)

        return False

    row.update(sent_at=timezone.now(), error="")
    return True


def _deliver(notice: Notice) -> None:
    if notice.way == Way.WEBHOOK:
        webhook_send(notice)
    else:
        mail_send(notice)


def webhook_body(notice: Notice) -> dict[str, Any]:
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
    """Redirects are refused: the operator configured one address, and only that one gets data."""

    def redirect_request(self, *_: Any) -> None:
        return None


def webhook_send(notice: Notice) -> None:
    """Raises OSError for any answer other than 2xx."""
    body = json.dumps(webhook_body(notice), ensure_ascii=False).encode()
    headers = {
        "Content-Type": "application/json",
        "X-DeepExtension-Delivery": str(notice.uuid),
    }

    if settings.WEBHOOK_SECRET:
        headers["X-DeepExtension-Signature"] = signature(body)

    request = urllib.request.Request(settings.WEBHOOK_URL, body, headers)  # noqa: S310
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_SECONDS):
        pass


def mail_send(notice: Notice) -> None:
    run = notice.run
    # Checked again: the person may have switched notices off since the train ended.
    if run.owner is None or not notices_wanted(run.owner):
        return

    # A mail with a line break in its subject is refused; names of trains have none.
    if notice.status == TrainRun.Status.STOPPED:
        subject = f"{run.name} is stopped"
    else:
        subject = f"{run.name} has {TrainRun.Status(notice.status).label.lower()}"

    text = "\n\n".join(_mail_paragraphs(run)) + "\n"
    send_mail(subject, text, settings.MAIL_FROM, [run.owner.email])


def _mail_paragraphs(run: TrainRun) -> list[str]:
    paragraphs = [
        f"{run.name} (#{run.pk}), {run.method.name} on {run.base_model.name} with "
        f"{run.dataset.title}"
    ]

    if run.total_steps:
        paragraphs.append(f"Step {run.step:,} of {run.total_steps:,}")
    if run.error:
        paragraphs.append(f"{run.error}\n{run.error_advice}")

    paragraphs.append(address(run))
    return paragraphs

"""Notices of a job's end, by e-mail and to a webhook, for kinds of work that people wait for.

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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.mail import send_mail
from django.db.models import F, QuerySet
from django.utils import timezone

from jobs.adding import job_add
from jobs.durations import run_seconds
from jobs.kinds import DELIVERY_PAUSES, function_of, kind_of
from jobs.models import Job, Notice

logger = logging.getLogger("deepextension.notices")

TIMEOUT_SECONDS = 10
Way = Notice.Way


@dataclass(frozen=True)
class NoticeText:
    """What a notice says. subject, paragraphs: of a mail. about: the webhook's body, beside its id
    and event. event: where it is another than the job's kind and status say."""

    subject: str
    paragraphs: list[str]
    about: dict[str, Any]
    event: str = ""


# Whether to e-mail a person when a job of theirs ends.
_mail_wanted: list[Callable[[Any], bool]] = []


def mail_wanted_register(wanted: Callable[[Any], bool]) -> None:
    """For the app that knows the person's wishes to call once, when it is ready."""
    _mail_wanted[:] = [wanted]


def mail_is_wanted(owner: Any) -> bool:
    return owner is not None and any(wanted(owner) for wanted in _mail_wanted)


def notices_create(job: Job) -> None:
    """Record who is to be notified of the end of this job, where it took as long as its kind says.
    Call it inside the transaction that ends the job."""
    seconds = kind_of(job).notice_seconds
    if seconds is None or (run_seconds(job) or 0) < seconds:
        return

    ways = []

    if settings.WEBHOOK_URL:
        ways.append(Way.WEBHOOK)
    if settings.MAIL_FROM and mail_is_wanted(job.owner):
        ways.append(Way.MAIL)

    if ways:
        notices = [
            Notice(
                job_id=job.number,
                attempt=job.attempt,
                status=job.status,
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

    for notice in notices_due().select_related("job__owner"):
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
        logger.warning("notice %s of job %s not sent: %s", notice.pk, notice.job_id, error)
        row.update(error=f"{type(error).__name__}: {error}"[:500])
        if notice.tries >= len(DELIVERY_PAUSES):
            logger.error("notice %s of job %s was given up", notice.pk, notice.job_id)

        return False

    row.update(sent_at=timezone.now(), error="")
    return True


def _deliver(notice: Notice) -> None:
    if notice.way == Way.WEBHOOK:
        webhook_send(notice)
    else:
        mail_send(notice)


def notice_text(notice: Notice) -> NoticeText:
    """By the job's kind, or what is known of every job."""
    job = notice.job
    kind = kind_of(job)
    if kind.notice:
        text: NoticeText = function_of(kind.notice)(notice)
        return text

    address = public_address(job.get_absolute_url())
    paragraphs = [f"{kind.title}: {job.name}"]
    if job.error:
        paragraphs.append(f"{job.error}\n{job.error_advice}".strip())

    paragraphs.append(address)
    return NoticeText(
        subject=subject_of(f"{kind.title} of {job.name}", notice),
        paragraphs=paragraphs,
        about={
            "job": {
                "number": job.number,
                "kind": job.kind,
                "name": job.name,
                "status": notice.status,
                "attempt": notice.attempt,
                "owner": job.owner.get_username() if job.owner else None,
                "duration_seconds": run_seconds(job),
                "error": error_of(job),
                "url": address,
            }
        },
    )


def subject_of(name: str, notice: Notice) -> str:
    if notice.status == Job.Status.STOPPED:
        return f"{name} is stopped"

    return f"{name} has {Job.Status(notice.status).label.lower()}"


def error_of(job: Job) -> dict[str, str] | None:
    return {"code": job.error_code, "message": job.error} if job.error_code else None


def webhook_body(notice: Notice) -> dict[str, Any]:
    text = notice_text(notice)
    event = text.event or f"{notice.job.kind}.{notice.status}"
    return {"id": str(notice.uuid), "event": event} | text.about


def public_address(path: str) -> str:
    return f"{settings.PUBLIC_URL.rstrip('/')}{path}"


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
    owner = notice.job.owner
    # Asked again: the person may have switched notices off since the job ended.
    if owner is None or not mail_is_wanted(owner):
        return

    # A mail with a line break in its subject is refused; names have none.
    text = notice_text(notice)
    body = "\n\n".join(text.paragraphs) + "\n"
    send_mail(text.subject, body, settings.MAIL_FROM, [owner.email])

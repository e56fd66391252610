"""The calls of the last hour. What answers a request hands its row over and goes on; a thread
writes them, many at once."""

from __future__ import annotations

import logging
import threading
from collections import deque
from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.handlers.asgi import ASGIRequest
from django.db import Error, close_old_connections, transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from openai_api.inference.models import Call

KEPT = timedelta(hours=1)
# Rows that wait in memory; of more, which no database takes for minutes, the oldest are lost.
MOST_WAITING = 20_000
PAUSE_SECONDS = 0.5
AT_ONCE = 500
# As nginx says it.
CLIENT_LEFT = 499

logger = logging.getLogger("deepextension.openai")


class _Writer:
    """A thread that starts with the first row, and so after the web server's fork."""

    def __init__(self) -> None:
        self.waiting: deque[Call] = deque(maxlen=MOST_WAITING)
        self.there_is_one = threading.Event()
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None

    def add(self, call: Call) -> None:
        self.waiting.append(call)
        self.there_is_one.set()

        with self.lock:
            if self.thread is None:
                self.thread = threading.Thread(target=self.run, name="calls", daemon=True)
                self.thread.start()

    def run(self) -> None:
        pause = threading.Event()
        while True:
            self.there_is_one.wait()
            # What comes meanwhile is written with it.
            pause.wait(PAUSE_SECONDS)
            self.there_is_one.clear()
            self.write()

    def write(self) -> None:
        while self.waiting:
            calls = [self.waiting.popleft() for _ in range(min(AT_ONCE, len(self.waiting)))]
            try:
                calls_write(calls)
            except Error as error:
                logger.warning("%s calls are not listed: %s", len(calls), error)
            finally:
                close_old_connections()


_writer = _Writer()


def calls_write(calls: list[Call]) -> None:
    try:
        with transaction.atomic():
            Call.objects.bulk_create(calls)
    except Error:
        # One of a person or token that was deleted meanwhile takes no other with it.
        for call in calls:
            _write_alone(call)


def _write_alone(call: Call) -> None:
    try:
        call.pk = None
        with transaction.atomic():
            call.save(force_insert=True)
    except Error as error:
        logger.debug("a call is not listed: %s", error)


def call_record(call: Call, request: HttpRequest) -> None:
    """Outside our web server, where a request has one thread for all it does, at once."""
    if isinstance(request, ASGIRequest):
        _writer.add(call)
    else:
        calls_write([call])


async def call_record_later(call: Call, request: HttpRequest) -> None:
    """The same on the event loop."""
    if isinstance(request, ASGIRequest):
        _writer.add(call)
    else:
        await sync_to_async(calls_write)([call])


def call_of(request: HttpRequest, user: Any, token: Any, model: str) -> Call:
    """A row for the list of calls, before anything is known of its end."""
    return Call(
        user=user,
        token=token,
        at=timezone.now(),
        method=request.method or "",
        path=request.path[:120],
        model=model[:200],
        status=CLIENT_LEFT,
        seconds=0,
    )


def calls_of(user: User) -> QuerySet[Call]:
    """Those of the last hour, the newest first."""
    since = timezone.now() - KEPT
    return Call.objects.filter(user=user, at__gte=since).select_related("token")


def calls_prune() -> None:
    old = Call.objects.filter(at__lt=timezone.now() - KEPT)
    # A deletion of nothing would make every writer wait.
    if old.exists():
        old.delete()

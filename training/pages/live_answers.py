"""What the open pages of a train ask twice a second, read once for all of them.

The API's view reads and renders the same rows for every page. Here an answer is made of what was
read at most FRESH_SECONDS ago, without the rest of the middleware and the view. Who asks is looked
up each time: the session, its user, and whether that user may see the train. So whoever signed out,
was deactivated or lost the right to a train gets no more of it, and the view says why."""

from __future__ import annotations

import math
import re
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import Max
from django.http import HttpRequest, HttpResponse
from rest_framework.renderers import JSONRenderer

from training.api.serializers import LIVE_NEEDS, METRIC_COLUMNS, live_state
from training.models import TrainRun
from training.pages.live_access import Access

PATH = re.compile(r"/api/v1/trains/([0-9]{1,18})/metrics/")
QUESTION = re.compile(r"after=([0-9]{1,18})")
# How long the headers of a session's answer are kept. Not how long it is let in: that is asked each
# time.
HEADERS_SECONDS = 10
FRESH_SECONDS = 0.2
# A page that comes back from a rest asks for more, and is answered by the view.
ROWS_KEPT = 1000
TRAINS_KEPT = 100
MOST_SESSIONS = 10_000
BYTES_KEPT = 1 << 20
SESSION_CHARACTERS = 64
ACCEPT = ("application/json", "*/*")

Who = tuple[str, ...]


@dataclass
class _Visit:
    """A session that the view has answered about a train, and under which headers."""

    access: Access
    until: float
    headers: dict[str, str]


class LiveAnswersMiddleware:
    """Stands first, for what stands behind it is what it spares."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        self.visits: dict[tuple[Who, int], _Visit] = {}
        self.trains: dict[int, _Train] = {}

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if (question := _question(request)) is None:
            return self.get_response(request)

        who, pk, after = question
        now = time.monotonic()
        visit = self.visits.get((who, pk))
        if visit is not None and visit.until > now and visit.access.allows(request):
            body = self._train(pk).answer(after)
            if body is not None:
                return HttpResponse(
                    body, headers=visit.headers | {"Content-Length": str(len(body))}
                )

        response = self.get_response(request)
        if response.status_code == 200:
            access = visit.access if visit is not None else Access(who[0], pk)
            self._keep((who, pk), _Visit(access, now + HEADERS_SECONDS, dict(response.items())))

        return response

    def _keep(self, key: tuple[Who, int], visit: _Visit) -> None:
        if len(self.visits) >= MOST_SESSIONS:
            now = time.monotonic()
            self.visits = {
                key: kept for key, kept in self.visits.copy().items() if kept.until > now
            }

        if len(self.visits) < MOST_SESSIONS:
            self.visits[key] = visit

    def _train(self, pk: int) -> _Train:
        if pk not in self.trains and len(self.trains) >= TRAINS_KEPT:
            self.trains = {}

        return self.trains.setdefault(pk, _Train(pk))


def _question(request: HttpRequest) -> tuple[Who, int, int] | None:
    """(who asks, for which train, for what came after which event), if a page asks in a session."""
    path, question = (
        PATH.fullmatch(request.path_info),
        QUESTION.fullmatch(request.META.get("QUERY_STRING", "")),
    )
    session = request.COOKIES.get(settings.SESSION_COOKIE_NAME, "")
    if (
        not path
        or not question
        or not session
        or request.method != "GET"
        or "HTTP_AUTHORIZATION" in request.META
    ):
        return None

    if len(session) > SESSION_CHARACTERS or request.META.get("HTTP_ACCEPT") not in ACCEPT:
        return None

    # Whatever else the answer depends on.
    return (
        (session, request.META.get("HTTP_HOST", ""), str(request.scheme)),
        int(path[1]),
        int(question[1]),
    )


class _Train:
    """How a train stands, and the newest of its rows as JSON: those behind event `first`."""

    def __init__(self, pk: int) -> None:
        self.pk = pk
        self.lock = threading.Lock()
        self.read_at = -math.inf
        self.attempt = 0
        self.head = b""
        self.first = 0
        self.seqs: list[int] = []
        self.rows: list[bytes] = []

    def answer(self, after: int) -> bytes | None:
        """As TrainMetricsView has it; None where that has to be asked."""
        with self.lock:
            if time.monotonic() - self.read_at > FRESH_SECONDS:
                self._read()
                self.read_at = time.monotonic()

            if not self.head or after < self.first:
                return None

            at = bisect_right(self.seqs, after)
            last = self.seqs[-1] if at < len(self.seqs) else after
            return b'%b,"next":%d,"rows":[%b]}' % (self.head, last, b",".join(self.rows[at:]))

    def _read(self) -> None:
        run = TrainRun.objects.only(*LIVE_NEEDS, "attempt").filter(pk=self.pk).first()
        self.head = (
            b"" if run is None else _json({"status": run.status, "train": live_state(run)})[:-1]
        )

        if run is None:
            return

        if run.attempt != self.attempt:
            # What an earlier attempt told may be taken back.
            last = run.metrics.aggregate(last=Max("seq"))["last"] or 0
            self.attempt, self.first, self.seqs, self.rows = run.attempt, last, [], []

        known = self.seqs[-1] if self.seqs else self.first
        new = list(run.metrics.filter(seq__gt=known).values(*METRIC_COLUMNS)[: ROWS_KEPT + 1])
        if len(new) > ROWS_KEPT:
            # More than pages that look on have missed: begin behind them.
            self.attempt, self.head = 0, b""
            return

        self.seqs += [row["seq"] for row in new]
        self.rows += map(_json, new)
        while len(self.rows) > ROWS_KEPT or sum(map(len, self.rows)) > BYTES_KEPT:
            over = len(self.rows) // 4 + 1
            self.first = self.seqs[over - 1]
            del self.seqs[:over], self.rows[:over]


def _json(value: Any) -> bytes:
    rendered: bytes = JSONRenderer().render(value)
    return rendered

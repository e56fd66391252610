"""What the open pages of a train poll twice a second, read once for all of them.

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

# (session, host, scheme): whatever else an answer depends on.
Client = tuple[str, str, str]


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
        self.visits: dict[tuple[Client, int], _Visit] = {}
        self.trains: dict[int, _Train] = {}

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if (question := _question(request)) is None:
            return self.get_response(request)

        client, pk, after = question
        now = time.monotonic()
        visit = self.visits.get((client, pk))

        if visit is not None and visit.until > now and visit.access.allows(request):
            body = self._train(pk).answer(after)
            if body is not None:
                headers = visit.headers | {"Content-Length": str(len(body))}
                return HttpResponse(body, headers=headers)

        response = self.get_response(request)
        if response.status_code == 200:
            session, *_ = client
            access = visit.access if visit is not None else Access(session, pk)
            headers = dict(response.items())
            self._keep((client, pk), _Visit(access, now + HEADERS_SECONDS, headers))

        return response

    def _keep(self, key: tuple[Client, int], visit: _Visit) -> None:
        if len(self.visits) >= MOST_SESSIONS:
            now = time.monotonic()
            # A copy, for other threads add to it meanwhile.
            every_visit = self.visits.copy().items()
            self.visits = {key: kept for key, kept in every_visit if kept.until > now}

        if len(self.visits) < MOST_SESSIONS:
            self.visits[key] = visit

    def _train(self, pk: int) -> _Train:
        if pk not in self.trains and len(self.trains) >= TRAINS_KEPT:
            self.trains = {}

        return self.trains.setdefault(pk, _Train(pk))


def _question(request: HttpRequest) -> tuple[Client, int, int] | None:
    """(who asks, id of the train, seq after which rows are wanted), where a page polls in a
    session; None for every other request."""
    if request.method != "GET" or "HTTP_AUTHORIZATION" in request.META:
        return None

    path = PATH.fullmatch(request.path_info)
    query = QUESTION.fullmatch(request.META.get("QUERY_STRING", ""))
    if path is None or query is None or request.META.get("HTTP_ACCEPT") not in ACCEPT:
        return None

    session = request.COOKIES.get(settings.SESSION_COOKIE_NAME, "")
    if not 0 < len(session) <= SESSION_CHARACTERS:
        return None

    host = request.META.get("HTTP_HOST", "")
    return (session, host, str(request.scheme)), int(path[1]), int(query[1])


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
        """The body as TrainMetricsView writes it, in JSON; None where the view has to answer."""
        with self.lock:
            if time.monotonic() - self.read_at > FRESH_SECONDS:
                self._read()
                self.read_at = time.monotonic()

            if not self.head or after < self.first:
                return None

            start = bisect_right(self.seqs, after)
            last_seq = self.seqs[-1] if start < len(self.seqs) else after
            rows = b",".join(self.rows[start:])

            return b'%b,"next":%d,"rows":[%b]}' % (self.head, last_seq, rows)

    def _read(self) -> None:
        run = TrainRun.objects.only(*LIVE_NEEDS, "attempt").filter(pk=self.pk).first()
        if run is None:
            self.head = b""
            return

        # Without the closing brace: the rows follow.
        self.head = _json({"status": run.status, "train": live_state(run)})[:-1]

        if run.attempt != self.attempt:
            self._forget(run)

        known = self.seqs[-1] if self.seqs else self.first
        newer = run.metrics.filter(seq__gt=known).values(*METRIC_COLUMNS)
        rows = list(newer[: ROWS_KEPT + 1])

        if len(rows) > ROWS_KEPT:
            # More than a page that polls can have missed: the view answers, and the next reading
            # begins behind these rows.
            self.attempt = 0
            self.head = b""
            return

        self.seqs += [row["seq"] for row in rows]
        self.rows += [_json(row) for row in rows]
        self._drop_oldest()

    def _forget(self, run: TrainRun) -> None:
        """A new attempt may take back what an earlier one reported."""
        self.attempt = run.attempt
        self.first = run.metrics.aggregate(last=Max("seq"))["last"] or 0
        self.seqs = []
        self.rows = []

    def _drop_oldest(self) -> None:
        """A quarter at a time, until the rows are few and small enough."""
        while len(self.rows) > ROWS_KEPT or sum(map(len, self.rows)) > BYTES_KEPT:
            dropped = len(self.rows) // 4 + 1
            self.first = self.seqs[dropped - 1]
            del self.seqs[:dropped]
            del self.rows[:dropped]


def _json(value: Any) -> bytes:
    rendered: bytes = JSONRenderer().render(value)
    return rendered

"""A live train as server-sent events: its state and every logged step.

A train with open pages is read once for all of them (TrainFeed), a few times a second, and its rows
are rendered to JSON once. Each page has a generator (`follow`) that waits on the event loop and
holds no thread. The id of an event is the seq of the newest row sent so far: a page that lost its
connection asks for the rows after it (`Last-Event-ID`) and misses none.

    data: what the API's metrics/ answers, and "now", the server's Unix seconds
    event: ended     the train has ended, and this was all
    event: closed    the reader may no longer see the train
    event: alive     nothing is new; data: Unix seconds
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from django.db import Error
from django.db.models import Max
from rest_framework.renderers import JSONRenderer

from core.web.in_thread import in_thread
from core.web.open_streams import open_stream
from training.api.serializers import LIVE_NEEDS, METRIC_COLUMNS, live_state
from training.models import TrainRun

# Seconds between two reads of a train that runs, and of one that waits.
READ_EVERY = 0.4
READ_WAITING_EVERY = 2.0
# A page that hears nothing for 12 s (QUIET in static/app.js) considers the connection lost.
ALIVE_EVERY = 5.0
# Access is checked again before an event, but no more often than this.
ACCESS_EVERY = 1.0
# How many of the newest rows are kept in memory. A page that is further behind catches up from the
# database.
ROWS_KEPT = 1000
BYTES_KEPT = 1 << 20
ROWS_AT_ONCE = 500

logger = logging.getLogger("deepextension.web")


class Access(Protocol):
    """Checks whether the reader may see the train now. Queries the database."""

    def allows(self) -> bool: ...


@dataclass(frozen=True)
class Snapshot:
    """The state of a train at one moment, and its rows after seq `first`.

    head: the JSON up to the rows. seqs, rows: seq and JSON of each row.
    """

    head: bytes
    has_ended: bool
    waits: bool
    attempt: int
    first: int
    seqs: tuple[int, ...] = ()
    rows: tuple[bytes, ...] = ()

    @property
    def last(self) -> int:
        return self.seqs[-1] if self.seqs else self.first

    def event(self, after: int) -> bytes:
        """For a page that has all rows up to `after`, which is not before `first`."""
        new = self.rows[bisect_right(self.seqs, after) :]
        return _event(self.head, new, max(after, self.last))


class TrainFeed:
    """What was last read of a train, and who waits for more."""

    def __init__(self, pk: int) -> None:
        self.pk = pk
        self.followers = 0
        self.snapshot: Snapshot | None = None
        self.is_gone = False
        self.changed = asyncio.Event()
        self.reader: asyncio.Task[None] | None = None

    async def read_on(self) -> None:
        """Read the train again and again, as long as somebody follows it."""
        while True:
            try:
                snapshot = await in_thread(read_train, self.pk, self.snapshot)
            except Error as error:
                logger.warning("train %s cannot be read, pages wait: %s", self.pk, error)
            except Exception:
                # A feed that ended here would leave its pages waiting for ever.
                logger.exception("train %s cannot be read, pages wait", self.pk)
            else:
                self.is_gone = snapshot is None
                if self.is_gone or snapshot != self.snapshot:
                    self.snapshot = snapshot
                    self.announce()

            waits = self.snapshot is not None and self.snapshot.waits
            await asyncio.sleep(READ_WAITING_EVERY if waits else READ_EVERY)

    def announce(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def newer_than(self, seen: Snapshot | None, seconds: float) -> bool:
        """Wait until there is another snapshot than `seen`; False where there is none in time."""
        if self.is_gone or self.snapshot is not seen:
            return True

        try:
            await asyncio.wait_for(self.changed.wait(), seconds)
        except TimeoutError:
            return False

        return True


_feeds: dict[int, TrainFeed] = {}


@asynccontextmanager
async def _feed_of(pk: int) -> AsyncIterator[TrainFeed]:
    feed = _feeds.get(pk)
    if feed is None:
        feed = _feeds[pk] = TrainFeed(pk)
        feed.reader = asyncio.create_task(feed.read_on())

    feed.followers += 1
    try:
        yield feed
    finally:
        feed.followers -= 1
        if not feed.followers and feed.reader is not None:
            feed.reader.cancel()
            _feeds.pop(pk, None)


async def follow(pk: int, after: int | None, access: Access) -> AsyncGenerator[bytes, None]:
    """Server-sent events of a train, until it has ended.

    after: the newest row that the page has; None where it wants only what is logged from now on.
    """
    with open_stream():
        async with _feed_of(pk) as feed:
            async for event in _events(feed, after, access):
                yield event


def once(pk: int, after: int | None) -> Iterator[bytes]:
    """What `follow` would send first, for a server that can keep no stream open (WSGI, as Django's
    own for development is). A client connects again and gets what came since."""
    snapshot = read_train(pk, None)
    if snapshot is None:
        yield b"event: closed\ndata: {}\n\n"
        return

    rows = [] if after is None else read_rows(pk, after, ROWS_AT_ONCE)
    last = rows[-1]["seq"] if rows else max(after or 0, snapshot.last)
    yield _event(snapshot.head, [_json(row) for row in rows], last)
    if snapshot.has_ended and len(rows) < ROWS_AT_ONCE:
        yield b"event: ended\ndata: {}\n\n"


async def _events(
    feed: TrainFeed, after: int | None, access: Access
) -> AsyncGenerator[bytes, None]:
    sent: Snapshot | None = None
    asked_at = -ACCESS_EVERY

    while True:
        has_news = await feed.newer_than(sent, ALIVE_EVERY)

        if time.monotonic() - asked_at >= ACCESS_EVERY:
            if not await in_thread(_is_allowed, access):
                yield b"event: closed\ndata: {}\n\n"
                return

            asked_at = time.monotonic()

        snapshot = feed.snapshot
        if feed.is_gone:
            yield b"event: closed\ndata: {}\n\n"
            return

        if not has_news or snapshot is None:
            yield b"event: alive\ndata: %.3f\n\n" % time.time()
            continue

        known = snapshot.last if after is None else after
        if known < snapshot.first:
            # One batch, and then again from the top: access may have been withdrawn meanwhile.
            event, known = await in_thread(_catch_up, feed.pk, known, snapshot)
            after = known
            yield event
            # What brought the page up has said how the train stands.
            if known < snapshot.last:
                continue
        else:
            yield snapshot.event(known)
            after = max(known, snapshot.last)

        sent = snapshot

        if snapshot.has_ended:
            yield b"event: ended\ndata: {}\n\n"
            return


def _catch_up(pk: int, after: int, snapshot: Snapshot) -> tuple[bytes, int]:
    """The event with the next rows of a page that is further behind than `snapshot` goes back, and
    its newest row then. Rendered here, in a thread: the event loop has others to answer."""
    rows = read_rows(pk, after, ROWS_AT_ONCE)
    last: int = rows[-1]["seq"] if rows else snapshot.first
    return _event(snapshot.head, [_json(row) for row in rows], last), last


def _is_allowed(access: Access) -> bool:
    """Nobody loses a page because the database was away for a moment: it tells nothing meanwhile
    either."""
    try:
        return access.allows()
    except Error as error:
        logger.warning("rights cannot be asked for, a page waits: %s", error)
        return True


def read_train(pk: int, before: Snapshot | None) -> Snapshot | None:
    """The train now; None where there is none. What `before` holds of its rows is not read
    again."""
    run = TrainRun.objects.only(*LIVE_NEEDS, "attempt").filter(pk=pk).first()
    if run is None:
        return None

    seqs: tuple[int, ...] = ()
    rows: tuple[bytes, ...] = ()
    if before is not None and before.attempt == run.attempt:
        first, seqs, rows = before.first, before.seqs, before.rows
    else:
        # What an earlier attempt logged may have been taken back.
        first = _newest_seq(run)

    known = seqs[-1] if seqs else first
    new = read_rows(pk, known, ROWS_KEPT + 1)
    if len(new) > ROWS_KEPT:
        # Start after them: pages catch up from the database.
        first, seqs, rows, new = _newest_seq(run), (), (), []

    first, seqs, rows = _bounded(
        first,
        (*seqs, *(row["seq"] for row in new)),
        (*rows, *(_json(row) for row in new)),
    )

    return Snapshot(
        head=_json({"status": run.status, "train": live_state(run)})[:-1],
        has_ended=run.ended,
        waits=run.status == TrainRun.Status.QUEUED,
        attempt=run.attempt,
        first=first,
        seqs=seqs,
        rows=rows,
    )


def _newest_seq(run: TrainRun) -> int:
    return run.metrics.aggregate(last=Max("seq"))["last"] or 0


def _bounded(
    first: int, seqs: tuple[int, ...], rows: tuple[bytes, ...]
) -> tuple[int, tuple[int, ...], tuple[bytes, ...]]:
    """The newest rows that may be kept, and the number of the row before them."""
    while len(rows) > ROWS_KEPT or sum(map(len, rows)) > BYTES_KEPT:
        over = len(rows) // 4 + 1
        first = seqs[over - 1]
        seqs, rows = seqs[over:], rows[over:]

    return first, seqs, rows


def read_rows(pk: int, after: int, most: int) -> list[dict[str, Any]]:
    """Logged steps after seq `after`, in order, with the API's columns."""
    rows = TrainRun(pk=pk).metrics.filter(seq__gt=after).order_by("seq")
    return list(rows.values(*METRIC_COLUMNS)[:most])


def _event(head: bytes, rows: Any, last: int) -> bytes:
    body = b'%b,"next":%d,"now":%.3f,"rows":[%b]}' % (head, last, time.time(), b",".join(rows))
    return b"id: %d\ndata: %b\n\n" % (last, body)


def _json(value: Any) -> bytes:
    rendered: bytes = JSONRenderer().render(value)
    return rendered

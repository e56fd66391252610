"""Who is connected to one web process, and who has to leave when there are too many."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Protocol

# Requests being received from one address, in one process. Browsers open six connections each and
# finish a request within a moment, so that a whole office behind one address stays far below.
UNFINISHED_PER_ADDRESS = 64


class Connection(Protocol):
    address: str

    def make_room(self) -> None:
        """Close, because a newer connection needs the place."""


class Connections:
    """The connections of one process, by address.

    A connection is unfinished while a request of it is being received. When an address has too many
    of those, the oldest is closed and not the newest refused: a slow client loses its places to the
    ones after it, and people who share its address still get in.

    Args:
        most: connections of the whole process. Must leave file descriptors for files and databases.
        most_per_address: connections of one address, idle ones included.
        is_trusted: whether an address is a proxy's, which speaks for many people and has limits of
            its own.
    """

    def __init__(
        self, *, most: int, most_per_address: int, is_trusted: Callable[[str], bool]
    ) -> None:
        self.most = most
        self.most_per_address = most_per_address
        self.is_trusted = is_trusted

        self.total = 0
        self.of_address: dict[str, int] = defaultdict(int)

        # Dictionaries keep their order: the first is the oldest.
        self.idle: dict[Connection, None] = {}
        self.unfinished: dict[Connection, None] = {}
        self.unfinished_of: dict[str, dict[Connection, None]] = {}

        # How many of each address were closed for being slow or too many, since the last summary.
        self.closed: Counter[str] = Counter()

    def admit(self, connection: Connection) -> bool:
        """Count a new connection; False where it exceeds the limits. Call `remove` at its end."""
        self.of_address[connection.address] += 1
        self.total += 1
        self.request_expected(connection)

        if self.total > self.most:
            oldest = next(iter(self.idle or self.unfinished))
            if oldest is connection:
                return False

            oldest.make_room()

        return self.is_trusted(connection.address) or self._has_place(connection)

    def _has_place(self, connection: Connection) -> bool:
        unfinished = self.unfinished_of[connection.address]
        if len(unfinished) > UNFINISHED_PER_ADDRESS:
            next(iter(unfinished)).make_room()

        return self.of_address[connection.address] <= self.most_per_address

    def remove(self, connection: Connection) -> None:
        self.request_arrived(connection)
        self.total -= 1
        self.of_address[connection.address] -= 1

        if not self.of_address[connection.address]:
            del self.of_address[connection.address]

    def request_expected(self, connection: Connection) -> None:
        """A request of it is on its way."""
        self.idle.pop(connection, None)
        self.unfinished[connection] = None
        self.unfinished_of.setdefault(connection.address, {})[connection] = None

    def request_arrived(self, connection: Connection) -> None:
        """Its request is complete, or so much of it that the client is not slow."""
        self.idle.pop(connection, None)
        self.unfinished.pop(connection, None)
        unfinished = self.unfinished_of.get(connection.address, {})
        unfinished.pop(connection, None)

        if not unfinished:
            self.unfinished_of.pop(connection.address, None)

    def closed_summary(self) -> str:
        """A log line about the connections closed since the last call; "" for none."""
        if not self.closed:
            return ""

        most = self.closed.most_common(3)
        worst = ", ".join(f"{address} ({count})" for address, count in most)
        total = self.closed.total()
        self.closed.clear()

        return f"Closed {total} connections that were slow or too many, most of them from {worst}."

    def is_idle(self, connection: Connection) -> None:
        """Its requests are answered, and it waits for the next."""
        self.idle[connection] = None

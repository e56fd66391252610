"""Threads of their own for uploads and downloads, which mostly wait for a client."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from django.db import connections

T = TypeVar("T")


class TooManyTransfers(Exception):
    """All threads for uploads and downloads are taken."""


class Transfers:
    """How many uploads and downloads run at once in this process, altogether and for one
    address."""

    def __init__(self, most: int, most_per_address: int) -> None:
        self.most = most
        self.most_per_address = most_per_address
        self.addresses: list[str] = []
        self.lock = threading.Lock()

    def begin(self, address: str) -> Transfer:
        """Raises TooManyTransfers."""
        with self.lock:
            full = len(self.addresses) >= self.most
            if full or self.addresses.count(address) >= self.most_per_address:
                raise TooManyTransfers

            self.addresses.append(address)

        return Transfer(lambda: self._end(address))

    def _end(self, address: str) -> None:
        with self.lock:
            self.addresses.remove(address)


class Transfer:
    """One thread, in which all steps of a transfer run: database cursors cannot change threads."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self.executor = ThreadPoolExecutor(1, "transfer")
        self.ended = ended

    def run(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        return self.executor.submit(function, *arguments)

    def end(self) -> None:
        """Let what runs finish, close the thread's database connections, and give the place
        back."""
        self.executor.submit(self._close)
        self.executor.shutdown(wait=False)

    def _close(self) -> None:
        try:
            connections.close_all()
        finally:
            self.ended()

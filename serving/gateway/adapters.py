"""Which adapters a model server is started with, and which of them cannot be loaded."""

from __future__ import annotations

import time
from collections.abc import Iterable

from serving.gateway.prepared import Files
from serving.gateway.problems import ServeProblem

# Adapters that one child has at most; the least recently asked one is left out.
MOST_ADAPTERS = 16
# An adapter that cannot be loaded is tried again after that.
BROKEN_SECONDS = 60.0


class Adapters:
    """Those of one base model."""

    def __init__(self) -> None:
        # {key: files} of those asked for, the latest at the end.
        self.recent: dict[str, Files] = {}
        # {key: (mark, when, why)} of those that could not be loaded, alone as well.
        self.broken: dict[str, tuple[str, float, ServeProblem]] = {}
        # (key, mark) of those that a child has loaded. Once a load has failed, others come one by
        # one, until the broken one is found.
        self.proven: set[tuple[str, str]] = set()
        self.is_careful = False

    def ask(self, files: Files) -> None:
        """Somebody wants that one."""
        if not files.adapter_key:
            return

        self.recent.pop(files.adapter_key, None)
        self.recent[files.adapter_key] = files
        while len(self.recent) > MOST_ADAPTERS:
            self.recent.pop(next(iter(self.recent)))

    def check(self, files: Files) -> None:
        """Raises ServeProblem where that one could not be loaded just now."""
        if files.adapter_key not in self.broken:
            return

        mark, since, problem = self.broken[files.adapter_key]
        if mark == files.adapter_mark and time.monotonic() - since <= BROKEN_SECONDS:
            raise problem

        del self.broken[files.adapter_key]

    def beside(self, wanted: Files, waited_for: Iterable[Files]) -> dict[str, Files]:
        """The wanted one, those that are waited for and those asked for lately, MOST_ADAPTERS at
        most, as they are on that very base."""
        found = {wanted.adapter_key: wanted} if wanted.adapter_key else {}

        for files in (*waited_for, *reversed(self.recent.values())):
            is_on_it = (files.base_mark, files.backend) == (wanted.base_mark, wanted.backend)
            is_known = not self.is_careful or self._is_proven(files)
            if files.adapter_key and is_on_it and is_known and len(found) < MOST_ADAPTERS:
                found.setdefault(files.adapter_key, files)

        return found

    def tries(self, adapters: dict[str, Files], wanted_key: str) -> list[dict[str, Files]]:
        """What a child is started with, one after the other until one loads: all, those known to
        load, and the wanted one alone."""
        own = {key: files for key, files in adapters.items() if key == wanted_key}
        proven = {key: files for key, files in adapters.items() if self._is_proven(files)}

        tries: list[dict[str, Files]] = []
        for one in (adapters, proven | own, own):
            if one not in tries:
                tries.append(one)

        return tries

    def have_loaded(self, adapters: dict[str, Files], *, after_failure: bool) -> None:
        if after_failure:
            self.is_careful = True
            self.recent = dict(adapters)

        self.proven |= {(key, files.adapter_mark) for key, files in adapters.items()}

    def has_failed(self, files: Files, problem: ServeProblem) -> None:
        """That one does not load, alone either."""
        self.is_careful = False
        self.forget(files.adapter_key)
        self.broken[files.adapter_key] = (files.adapter_mark, time.monotonic(), problem)

    def forget(self, key: str) -> None:
        self.recent.pop(key, None)

    def _is_proven(self, files: Files) -> bool:
        return (files.adapter_key, files.adapter_mark) in self.proven

"""What programs that speak to other servers report: JSON lines on standard output, see
core.programs. Last {"done": {…}} or {"error": text, "passing": whether to try again}."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any


class Refused(Exception):
    """Why the work failed, in words for people. `passing`: it may go well later."""

    def __init__(self, text: str, *, passing: bool = False) -> None:
        super().__init__(text)
        self.passing = passing


def report(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def run(work: Callable[[], dict[str, Any]], explain: Callable[[Exception], Refused]) -> int:
    """Do the work and report how it went; returns the exit status.

    explain: what a person can do about an error that `work` raised."""
    try:
        result = work()
    except Exception as error:
        reason = explain(error)
        # People get the reason; the log gets the type alone, since the texts of errors may hold
        # addresses with signatures in them.
        print(f"{type(error).__module__}.{type(error).__name__}", file=sys.stderr)
        report(error=str(reason), passing=reason.passing)
        return 1

    report(done=result)
    return 0

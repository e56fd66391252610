"""What the driver tells the client: lines of the job's log, which Ray's HTTP interface gives out. It
needs neither a folder nor a network that both share."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

MARK = "@train "


def tell(**values: Any) -> None:
    """say: a line for the train's log; phase: "waiting" for devices, or "running"; ending: a
    failure's code, message, advice and the end of its rank's log."""
    print(f"\n{MARK}{json.dumps(values)}", flush=True)


def told(log: str) -> Iterator[dict[str, Any]]:
    """What has been told, in order; a line that is not whole yet is left out."""
    for line in log.splitlines():
        if line.startswith(MARK):
            with contextlib.suppress(ValueError):
                yield json.loads(line.removeprefix(MARK))

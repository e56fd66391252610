"""What the driver reports to the client, as lines of the job's log, which Ray's HTTP interface serves.
That needs neither a common folder nor a connection between the two."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

MARK = "@train "


def log_write(**values: Any) -> None:
    """say: a line for the train's log; phase: "waiting" for devices, or "running"; ending: a
    failure's code, message, advice and the end of its rank's log."""
    print(f"\n{MARK}{json.dumps(values)}", flush=True)


def log_entries(log: str) -> Iterator[dict[str, Any]]:
    """The reports in order; a line that is not complete yet is left out."""
    for line in log.splitlines():
        if line.startswith(MARK):
            with contextlib.suppress(ValueError):
                yield json.loads(line.removeprefix(MARK))

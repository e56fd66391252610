"""A sign of life of the client. A platform that was killed, or a network that is cut, would else leave a
train on the cluster that nobody knows of.

The client counts up; the driver ends the train where it has not seen the number change for so long,
by its own clock."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = "cluster"
LEASE = "lease.json"
LEASE_SECONDS = 60.0
RENEW_SECONDS = 2.0
# A storage may be away for a while, which costs a train nothing.
STORED_LEASE_SECONDS = 300.0
STORED_RENEW_SECONDS = 5.0


@dataclass(frozen=True)
class Lease:
    """`job`: the Ray job that it is for; `time`: of the client's clock."""

    job: str
    count: int
    time: float

    def to_bytes(self) -> bytes:
        return json.dumps({"job": self.job, "count": self.count, "time": self.time}).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Lease | None:
        """None for what is no lease."""
        try:
            data = json.loads(content)
            return cls(str(data["job"]), int(data["count"]), float(data["time"]))
        except (ValueError, LookupError, TypeError):
            return None


def lease_write(directory: Path, lease: Lease) -> None:
    folder = directory / FOLDER
    folder.mkdir(exist_ok=True)
    temporary = folder / f"{LEASE}.tmp"
    temporary.write_bytes(lease.to_bytes())
    temporary.replace(folder / LEASE)


def lease_object(session: str) -> str:
    """Its name in the storage."""
    return f"{session}/live/lease"


def lease_read(directory: Path) -> Lease | None:
    try:
        return Lease.from_bytes((directory / FOLDER / LEASE).read_bytes())
    except OSError:
        return None


@dataclass
class LeaseWatch:
    """`seconds`: how long the number may stay the same."""

    job: str
    seconds: float
    count: int = -1
    changed: float = field(default_factory=time.monotonic)

    def see(self, lease: Lease | None) -> None:
        """One that is for another job has been taken over."""
        if lease is not None and lease.job == self.job and lease.count != self.count:
            self.count = lease.count
            self.changed = time.monotonic()

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self.changed > self.seconds

"""What the client tells the driver, and the driver its workers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Self

# The driver's environment has it.
ORDER = "ENGINE_CLUSTER_ORDER"


@dataclass(frozen=True)
class Order:
    """`job`: the Ray job; `directory`: the run directory on the platform's machine; `cluster`: its host
    and port; `devices`: how many workers; `cpus`: processors of each; `gpus`: whether each has a GPU;
    `units`: batches of one device that a step learns from, over all devices, 0 where no other number
    of devices can go on; `first_seq`: of the last event before this attempt; `resume_from`: the
    checkpoint, within the run directory, in place of the spec's; `session`: in the storage, "" where
    all nodes share the folder; `sealed`: variables that are secret (engine.cluster.secrets).

    `generation`: which start of the workers this is; `lost`: why the one before ended; `elapsed`:
    seconds that the train has taken until then."""

    job: str
    directory: str
    cluster: str
    devices: int
    cpus: int
    gpus: bool
    units: int
    first_seq: int
    versions: dict[str, str]
    lease_seconds: float
    return_seconds: float
    resume_from: str = ""
    session: str = ""
    sealed: str = ""
    generation: int = 1
    lost: str = ""
    elapsed: float = 0.0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))

    def again(self, lost: str, elapsed: float) -> Self:
        """For the workers that are started after others were lost."""
        return replace(self, generation=self.generation + 1, lost=lost, elapsed=elapsed)

    def fewer(self, available: int) -> int:
        """On how many of the available devices the train can go on, with as many rows a step as
        before; 0 for none."""
        if available >= self.devices:
            return self.devices
        if not self.units:
            return 0

        return next((count for count in range(available, 0, -1) if self.units % count == 0), 0)

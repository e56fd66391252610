"""Train a run directory on the Ray cluster that the environment names: `python -m engine.cluster DIR`."""

from __future__ import annotations

import sys
from pathlib import Path

from engine.cluster.client import run

if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]).absolute()))

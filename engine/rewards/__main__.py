"""python -m engine.rewards DIR    scores the rows of DIR/trial.json into DIR/answers.jsonl, then
DIR/result.json."""

from __future__ import annotations

import sys
from pathlib import Path

from engine.rewards.trial import trial_run

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    trial_run(Path(sys.argv[1]))

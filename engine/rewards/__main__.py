"""python -m engine.rewards DIR    scores the rows of DIR/trial.json into DIR/answers.jsonl, then
DIR/result.json; the report {"done": {}} says that it came to its end, see core.programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from engine.rewards.trial import trial_run

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)

    trial_run(Path(sys.argv[1]))
    # On a line of its own: reward functions print too.
    print("\n" + json.dumps({"done": {}}), flush=True)

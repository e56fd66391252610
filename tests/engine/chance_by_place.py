"""A train in which chance is replaced: `python -m tests.engine.chance_by_place DIR`.

What a random number would decide is decided by an answer's place in the batch of all ranks and by
the place of its token, so that two ranks write what one rank with twice the batch writes."""

import os
import sys
from itertools import count
from pathlib import Path
from typing import Any

from engine.fast import generation
from engine.run.main import run

# Two numbers whose multiples spread evenly over 0 to 1.
BY_ANSWER, BY_TOKEN = 0.6180339887, 0.7548776662


def main() -> int:
    import torch

    tokens = count()

    def sample(probabilities: Any, **more: Any) -> Any:
        """(rows, vocabulary). Returns (rows,)."""
        cumulative = probabilities.double().cumsum(-1)
        rows = len(probabilities)
        first = rows * int(os.environ.get("RANK", "0"))
        answers = torch.arange(first, first + rows, dtype=torch.float64)
        chance = (answers * BY_ANSWER + next(tokens) * BY_TOKEN) % 1
        return torch.searchsorted(cumulative, (chance * cumulative[:, -1])[:, None])[:, 0]

    generation._sample = sample
    # What transformers' own loop draws by.
    torch.multinomial = lambda probabilities, **more: sample(probabilities)[:, None]
    return run(Path(sys.argv[1]).absolute())


if __name__ == "__main__":
    sys.exit(main())

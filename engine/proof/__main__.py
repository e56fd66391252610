"""Proof that the model in a folder is the one that was trained.

    python -m engine.proof RUN FOLDER                     FOLDER was made from the run directory RUN
    python -m engine.proof RUN FOLDER --checkpoint 200    from its checkpoint of that step
    python -m engine.proof RUN FOLDER --reference FILE    also writes what the trained model answers,
                                                          by which exports are proved later

Loads what was written with transformers alone, has it answer the train's held-out prompts, and
compares with the base model and its adapter. Prints JSON lines: {"progress": 0..1} as it goes, and
last {"done": {"passed", "checks": [{"name", "passed", "detail"}]}} or {"error": "what is wrong, in
words for people"}. Exit code 4: the proof failed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from engine.proof.prove import prove
from engine.proof.report import checks_run, progress_say


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m engine.proof", description=__doc__.splitlines()[0]
    )
    parser.add_argument("run", type=Path, help="a run directory, such as var/runs/1")
    parser.add_argument("folder", type=Path, help="the model that was made from it")
    parser.add_argument("--checkpoint", type=int, default=0, metavar="STEP")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="a file to write")
    options = parser.parse_args(arguments)

    return checks_run(
        lambda: prove(
            options.run, options.folder, options.checkpoint, progress_say, options.reference
        )
    )


if __name__ == "__main__":
    sys.exit(main())

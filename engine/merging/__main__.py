"""A train's adapter merged into its base model.

    python -m engine.merging RUN OUT                     writes the new folder OUT from the run
    directory RUN
    python -m engine.merging RUN OUT --checkpoint 200    from its checkpoint of that step
    python -m engine.merging RUN OUT --precision fp32    stored as fp16, bf16 or fp32 (auto: fp16
                                                         for a base model of sixteen bits where its
                                                         range allows, bf16 where not)

Prints JSON lines: {"bytes": what the result takes at most}, {"progress": 0..1} as it goes, and last
{"done": {"precision", "remark"}} or {"error": "what is wrong, in words for people"}. OUT appears
whole or not at all."""

from __future__ import annotations

import argparse
import errno
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from engine.contract.rundir import SpecError
from engine.loading.architecture import Refused
from engine.merging.folder import Merged, MergeRequest, bytes_needed, model_write
from engine.messages.failures import TrainError
from engine.models.inspect import ModelProblem


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m engine.merging", description=__doc__.splitlines()[0]
    )
    parser.add_argument("run", type=Path, help="a run directory, such as var/runs/1")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--checkpoint", type=int, default=0, metavar="STEP")
    parser.add_argument("--precision", choices=["auto", "fp16", "bf16", "fp32"], default="auto")
    options = parser.parse_args(arguments)
    request = MergeRequest(options.run, options.checkpoint, options.precision)

    try:
        merged = _merge(request, options.out)
        say(done={"precision": merged.precision, "remark": merged.remark})
    except (Refused, SpecError, ModelProblem) as error:
        say(error=str(error))
        return 1
    except TrainError as error:
        say(error=f"{error.message} {error.advice}")
        return 1

    return 0


def _merge(request: MergeRequest, out: Path) -> Merged:
    if out.exists():
        raise Refused(f"{out} is there already. Name a folder that is new.")

    needed = bytes_needed(request)
    say(bytes=needed)
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise Refused(_no_space(needed, free))

    def on_progress(share: float) -> None:
        say(progress=round(share, 4))

    try:
        return model_write(request, out, on_progress)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise

        free = shutil.disk_usage(out.parent).free
        raise Refused(_no_space(needed, free)) from error


def _no_space(needed: int, free: int) -> str:
    return (
        f"Not enough disk space for the merged model: it takes {needed / 1e9:.1f} GB, and "
        f"{free / 1e9:.1f} GB are free."
    )


if __name__ == "__main__":
    sys.exit(main())

"""What the programs of this folder print: JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from engine.contract.rundir import SpecError
from engine.loading.architecture import Refused
from engine.messages.failures import TrainError
from engine.models.inspect import ModelProblem
from engine.proof.checks import Check

EXIT_FAILED_PROOF = 4


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def progress_say(share: float) -> None:
    say(progress=round(share, 4))


def checks_run(work: Callable[[], list[Check]]) -> int:
    """Do the work, and say the verdict or why there is none; returns the program's exit code."""
    try:
        checks = work()
    except (Refused, SpecError, ModelProblem) as error:
        say(error=str(error))
        return 1
    except TrainError as error:
        say(error=f"{error.message} {error.advice}")
        return 1

    passed = all(check.passed for check in checks)
    listed = [asdict(check) for check in checks]
    say(done={"passed": passed, "checks": listed})

    return 0 if passed else EXIT_FAILED_PROOF

"""What the programs of this folder print: JSON lines."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from engine.proof.checks import Check

EXIT_FAILED_PROOF = 4


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def checks_say(checks: list[Check]) -> int:
    """Say the verdict; returns the program's exit code."""
    passed = all(check.passed for check in checks)
    listed = [asdict(check) for check in checks]
    say(done={"passed": passed, "checks": listed})

    return 0 if passed else EXIT_FAILED_PROOF

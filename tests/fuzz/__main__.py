"""Made-up calls of every operation of the API, right and wrong ones: python -m tests.fuzz --minutes
10

A platform of its own is started, and asked by somebody without rights, by an operator, and by
nobody who is signed in. Fails on any 5xx, any status or body that the OpenAPI document does not
name, and wrong input that is taken."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.e2e.test_main_job import toy_rows
from tests.fuzz.calls import CHECKS
from tests.live import ROOT, Platform, running_platform

WHO = ("alice", "olga", "nobody")
PHASES = "examples,coverage,fuzzing"


def what_is_there(platform: Platform) -> dict[str, list[Any]]:
    """A dataset, a train that has ended and one that waits."""
    dataset = platform.upload("toys.jsonl", toy_rows())
    ended = platform.ended(platform.start(dataset, max_steps=2))
    platform.api("POST", "queue/pause/", by="olga")
    waiting = platform.start(dataset, name="waiting", max_steps=2)
    return {
        "datasets": [dataset["id"], dataset["slug"]],
        "trains": [ended["id"], waiting["id"]],
        "jobs": [job["number"] for job in platform.get("jobs/")["results"]],
        "models": ["tiny"],
        "methods": ["lora", "grpo"],
    }


def fuzz(
    platform: Platform,
    who: str,
    *,
    document: Path,
    seconds: int,
    seed: int,
    there: dict[str, list[Any]],
) -> int:
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        str(document),
        "--url",
        platform.url,
    ]
    command += ["--phases", PHASES, "--max-time", str(seconds), "--seed", str(seed), "--no-color"]
    command += ["--checks", ",".join(check.__name__ for check in CHECKS), "--continue-on-failure"]
    command += ["--request-timeout", "60", "--suppress-health-check", "all", "--warnings", "off"]
    if who != "nobody":
        command += ["--header", f"Authorization: Token {platform.token(who)}"]
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks",
        "FUZZ_THERE": json.dumps(there),
        "FUZZ_SEED": str(seed),
    }
    print(f"{who}: {seconds} s, seed {seed}", flush=True)
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    given = parser.parse_args()
    with running_platform() as platform, tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "openapi.json"
        answer = platform.api(
            "GET", "schema/", headers={"Accept": "application/vnd.oai.openapi+json"}
        )
        document.write_text(answer.text)
        there = what_is_there(platform)
        seconds = max(1, int(given.minutes * 60 / len(WHO)))
        codes = [
            fuzz(platform, who, document=document, seconds=seconds, seed=given.seed, there=there)
            for who in WHO
        ]
        log = (platform.home / "logs" / "web.log").read_text()
        failed = log.count("Traceback")
        print(f"{failed} tracebacks in the web server's log", flush=True)
        if failed:
            print(log[log.index("Traceback") :][:5000])
    return int(any(codes) or failed > 0)


if __name__ == "__main__":
    sys.exit(main())

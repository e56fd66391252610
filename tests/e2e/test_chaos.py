"""A short fixed set of what `make chaos` does at length, on a platform of its own."""

import subprocess
import sys

from tests.live import ROOT

FAULTS = "kill_supervisor,half_checkpoint,torn_line,empty_redis,kill_redis,kill_lane,kill_job"
# Draws two of background work, one of Redis, one of the train.
SEED = "510"


def test_no_fault_of_a_short_set_loses_anything():
    options = ["--faults", "4", "--seed", SEED, "--only", FAULTS, "--work", "dataset check"]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"4 faults, 4 survived, 0 lost (seed {SEED})" in ran.stdout

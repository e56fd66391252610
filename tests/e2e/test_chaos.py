"""A short fixed set of what `make chaos` does at length, on a platform of its own."""

import subprocess
import sys

from tests.live import ROOT

FAULTS = "kill_supervisor,half_checkpoint,torn_line,empty_redis,kill_redis"


def test_no_fault_of_a_short_set_loses_anything():
    ran = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--faults", "4", "--seed", "5", "--only", FAULTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "4 faults, 4 survived, 0 lost (seed 5)" in ran.stdout

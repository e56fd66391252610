"""A short fixed set of what `make chaos` does at length."""

import math
from random import Random

import pytest

from tests.chaos import faults
from tests.chaos.__main__ import Count, Plan, bench_of, rounds
from tests.chaos.work import Check
from tests.live import Platform

pytestmark = pytest.mark.long

FAULTS = (
    faults.kill_supervisor,
    faults.kill_redis,
    faults.empty_redis,
    faults.torn_line,
    faults.half_checkpoint,
    faults.kill_lane,
    faults.kill_job,
)
# Draws two of background work, one of the train, one of Redis.
SEED = 510


def test_no_fault_of_a_short_set_loses_anything(platform: Platform, capsys):
    count = Count()
    plan = Plan(FAULTS, 4, math.inf, {Check.name}, Random(SEED))
    rounds(bench_of(platform), plan, count)
    assert (count.faults, count.lost) == (4, 0), capsys.readouterr().out

"""A short fixed set of what `make chaos` does at length."""

from random import Random

from tests.chaos import faults
from tests.chaos.__main__ import Count, rounds
from tests.live import Platform

FAULTS = (
    faults.kill_supervisor,
    faults.kill_redis,
    faults.empty_redis,
    faults.torn_line,
    faults.half_checkpoint,
)


def test_no_fault_of_a_short_set_loses_anything(platform: Platform, capsys):
    count = Count()
    rounds(platform, FAULTS, 4, Random(5), count)
    assert (count.faults, count.lost) == (4, 0), capsys.readouterr().out

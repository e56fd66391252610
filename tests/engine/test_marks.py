"""The set of hashes says what Python's own set says."""

import random
import sys

from engine.rows.hash_set import HashSet


def test_a_value_is_new_once():
    draw = random.Random(3)
    # From few, so that many come again; 0 and the largest are values like others.
    pool = [0, 1, 2**64 - 1, *(draw.getrandbits(64) for _ in range(5000))]
    ours, theirs = HashSet(), set()
    for value in draw.choices(pool, k=20_000):
        # An empty slot is written 0, so 0 and 1 are held for the same.
        is_new = (value or 1) not in theirs
        theirs.add(value or 1)
        assert ours.add(value) is is_new
    assert len(ours) == len(theirs)


def test_it_takes_a_fraction_of_what_a_set_takes():
    draw = random.Random(4)
    ours, theirs = HashSet(), set()
    for _ in range(60_000):
        value = draw.getrandbits(64)
        ours.add(value)
        theirs.add(value)
    of_theirs = sys.getsizeof(theirs) + sum(map(sys.getsizeof, theirs))
    assert ours.slots.itemsize * len(ours.slots) * 2 < of_theirs

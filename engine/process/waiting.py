"""How the threads of one sum wait for each other."""

from __future__ import annotations

import os

# Asleep. By default OpenMP's threads spin, which beside another program that computes takes the
# time that the others need: llama.cpp wrote 3 tokens a second with two threads on two busy
# processors, and 54 like this; a comparison of a small model took ten minutes in place of two.
ASLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}
# For trains: some microseconds, a thirtieth of what is usual. Asleep at once costs a train a sixth
# of its speed on a quiet machine, this nothing; and where others compute too, a step takes a third
# to a fifth of what it takes with threads that spin as usual.
BRIEFLY = {"GOMP_SPINCOUNT": "10000"}


def threads_wait_asleep() -> None:
    """For this process, unless its environment says otherwise. OpenMP reads it once, when a library
    that computes is loaded."""
    _set(ASLEEP)


def threads_spin_briefly() -> None:
    """As threads_wait_asleep, for trains. The count would overrule a policy."""
    if "OMP_WAIT_POLICY" not in os.environ:
        _set(BRIEFLY)


def _set(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)

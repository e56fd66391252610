"""How the threads of one sum wait for each other."""

from __future__ import annotations

import os

# Asleep. By default OpenMP's threads spin, which beside another program that computes takes the
# time that the others need: llama.cpp wrote 3 tokens a second with two threads on two busy
# processors, and 54 like this; a comparison of a small model took ten minutes in place of two.
ASLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}


def threads_wait_asleep() -> None:
    """For this process, unless its environment says otherwise. OpenMP reads it once, when a library
    that computes is loaded."""
    for name, value in ASLEEP.items():
        os.environ.setdefault(name, value)

"""How long each phase of a train took, all attempts together.

`facts` of a train holds "phases", [[name, Unix seconds]] in order, where the name "" marks the end
of an attempt, and "spent", {name: [rounds, seconds]} of every phase that has ended. The list loses
entries from its middle when it grows long; the sums are complete."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone

from training.models import TrainRun

PAUSE = ""
FIRST_PHASE = "loading model"
PHASES_KEPT = 100
PHASES_FIRST = 20

Facts = dict[str, Any]
Spent = dict[str, tuple[int, float]]


@dataclass(frozen=True)
class Phase:
    """`seconds` of all its rounds; `current` while the train is in it."""

    name: str
    began: datetime
    seconds: float
    current: bool


def phase_enter(facts: Facts, name: str, time: float) -> Facts:
    """The facts once a phase has begun, which ends the one before it."""
    facts = phase_leave(facts, time)
    phases = [*facts["phases"], [name, time]]

    # Each evaluation adds two, and there may be thousands: the first ones and the latest are kept.
    if len(phases) > PHASES_KEPT:
        latest = PHASES_KEPT - PHASES_FIRST
        phases = phases[:PHASES_FIRST] + phases[-latest:]

    return facts | {"phases": phases}


def phase_leave(facts: Facts, time: float) -> Facts:
    """The facts once the open phase has ended."""
    spent = spent_of(facts)
    current = open_phase(facts)
    if current is not None:
        name, began = current
        _add_round(spent, name, time - began)

    phases = facts.get("phases") or []
    return facts | {"phases": phases, "spent": spent}


def _add_round(spent: Spent, name: str, seconds: float) -> None:
    rounds, total = spent.get(name, (0, 0.0))
    spent[name] = (rounds + 1, total + max(0.0, seconds))


def attempt_end(facts: Facts, time: float) -> Facts:
    """The facts once an attempt has ended: what comes before the next one belongs to no phase."""
    facts = phase_leave(facts, time)
    phases = facts["phases"]
    if phases and phases[-1][0] != PAUSE:
        phases = [*phases, [PAUSE, time]]

    return facts | {"phases": phases}


def open_phase(facts: Facts) -> tuple[str, float] | None:
    """(name, when it began) of the phase that a train is in, or was in when its engine
    disappeared."""
    phases = facts.get("phases") or []
    if not phases or phases[-1][0] == PAUSE:
        return None

    name, began = phases[-1]
    return str(name), float(began)


def spent_of(facts: Facts) -> Spent:
    """{phase: (rounds, seconds)} of the phases that have ended."""
    spent: Spent = {}

    if "spent" in facts:
        for name, (rounds, seconds) in facts["spent"].items():
            spent[name] = (int(rounds), float(seconds))

        return spent

    # Written before the sums were kept. How long the last phase of an attempt took is not known
    # where another attempt follows: the time until then was mostly spent waiting.
    phases = facts.get("phases") or []
    for (name, began), (following, until) in itertools.pairwise(phases):
        if following != FIRST_PHASE:
            _add_round(spent, name, until - began)

    return spent


def phases_of(run: TrainRun) -> list[Phase]:
    """Each phase once, in the order of their first rounds."""
    spent = spent_of(run.facts)
    current = open_phase(run.facts)

    if current is not None:
        name, began = current
        end = run.finished_at or timezone.now()
        _add_round(spent, name, end.timestamp() - began)

    current_name = current[0] if current is not None and run.status in TrainRun.ACTIVE else None
    zone = timezone.get_current_timezone()
    phases: dict[str, Phase] = {}

    for name, began in run.facts.get("phases") or []:
        if name == PAUSE or name in phases:
            continue

        _, seconds = spent.get(name, (0, 0.0))
        phases[name] = Phase(
            name=name,
            began=datetime.fromtimestamp(began, tz=zone),
            seconds=seconds,
            current=name == current_name,
        )

    return list(phases.values())

"""How long each phase of a train took, all attempts together.

`facts` of a train holds "phases", [[name, Unix seconds]] in order, where the name "" marks the end
of an attempt, and "spent", {name: [rounds, seconds]} of every phase that has ended. The list is cut
in its middle when it grows long; the sums are not."""

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

    # Two for each evaluation: the beginning and the latest are kept, not every one of thousands in
    # between.
    if len(phases) > PHASES_KEPT:
        phases = phases[:PHASES_FIRST] + phases[PHASES_FIRST - PHASES_KEPT :]

    return facts | {"phases": phases}


def phase_leave(facts: Facts, time: float) -> Facts:
    """The facts once the open phase has ended."""
    spent = spent_of(facts)
    current = open_phase(facts)
    if current is None:
        return facts | {"phases": facts.get("phases") or [], "spent": spent}

    name, began = current
    rounds, seconds = spent.get(name, (0, 0.0))
    spent[name] = (rounds + 1, seconds + max(0.0, time - began))

    return facts | {"phases": facts["phases"], "spent": spent}


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


def spent_of(facts: Facts) -> dict[str, tuple[int, float]]:
    """{phase: (rounds, seconds)} of the phases that have ended."""
    if "spent" in facts:
        return {
            name: (int(rounds), float(seconds))
            for name, (rounds, seconds) in facts["spent"].items()
        }

    # Written before the sums were kept. How long the last phase of an attempt took is not known
    # where another attempt follows: the time until then was mostly spent waiting.
    spent: dict[str, tuple[int, float]] = {}
    phases = facts.get("phases") or []
    for (name, began), (following, until) in itertools.pairwise(phases):
        if following == FIRST_PHASE:
            continue

        rounds, seconds = spent.get(name, (0, 0.0))
        spent[name] = (rounds + 1, seconds + max(0.0, until - began))

    return spent


def phases_of(run: TrainRun) -> list[Phase]:
    """Each phase once, in the order of their first rounds."""
    facts = run.facts
    seconds = {name: total for name, (_, total) in spent_of(facts).items()}
    current = open_phase(facts)
    if current is not None:
        name, began = current
        end = run.finished_at or timezone.now()
        seconds[name] = seconds.get(name, 0.0) + max(0.0, end.timestamp() - began)

    first: dict[str, float] = {}
    for name, began in facts.get("phases") or []:
        if name != PAUSE:
            first.setdefault(name, began)

    zone = timezone.get_current_timezone()
    is_active = run.status in TrainRun.ACTIVE
    return [
        Phase(
            name=name,
            began=datetime.fromtimestamp(began, tz=zone),
            seconds=seconds.get(name, 0.0),
            current=is_active and current is not None and name == current[0],
        )
        for name, began in first.items()
    ]

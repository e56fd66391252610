"""Where a train may run: what can be chosen, what is refused, and what it would wait for."""

from __future__ import annotations

from core.errors import UserError
from jobs.devices.cluster import cluster_absence
from jobs.devices.launchers import (
    ANYWHERE,
    LAUNCHERS,
    LOCAL,
    RAY,
    cluster_is_set,
    cluster_name,
    cluster_title,
)
from jobs.devices.machines import machines_known
from jobs.devices.presence import WorkerState
from methods.models import TrainingMethod

TITLES = {ANYWHERE: "Anywhere", LOCAL: "This platform's machines"}


def launchers_offered(method: TrainingMethod) -> list[tuple[str, str]]:
    """(value, title); none where there is nothing to choose."""
    if not cluster_is_set() or method.is_custom:
        return []

    return [*TITLES.items(), (RAY, LAUNCHERS[RAY])]


def launcher_title(launcher: str) -> str:
    if launcher != RAY:
        return TITLES[launcher]

    name = cluster_name()
    return cluster_title(name) if name else "Ray cluster"


def launcher_check(launcher: str, method: TrainingMethod) -> None:
    """Whether a train of this method can be run there. Raises UserError."""
    text = ""
    if launcher not in (ANYWHERE, LOCAL, RAY):
        text = f"{launcher[:40]!r} is not a launcher: use local or ray, or leave it blank for anywhere."
    elif launcher == RAY and not cluster_is_set():
        text = "No Ray cluster is set up here (DEEPEXTENSION_RAY_ADDRESS)."
    elif launcher == RAY and method.is_custom:
        text = f"{method.name} is a custom program, which runs on this platform's machines alone."

    if text:
        raise UserError({"launcher": [text]})


def launcher_warning(launcher: str, state: WorkerState) -> str:
    """What a train would wait for there, or nothing."""
    return cluster_absence(state) if launcher == RAY and cluster_is_set() else ""


def device_kind_for(launcher: str, state: WorkerState) -> str:
    """ "cpu" or "cuda": what a train can count on there. Of a cluster that is away, what it had."""
    if launcher == RAY and not any(machine.is_cluster for machine in state.machines):
        known = machines_known(launcher=RAY).first()
        return known.kind if known is not None else state.device_kind

    return state.kind_for(launcher)

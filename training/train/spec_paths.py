"""Paths in spec.json: they are updated before a train starts, because the home may have moved."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings

from engine.contract.rundir import Spec, SpecError, paths_changed, read_spec, write_spec
from training.models import TrainRun


def spec_write(run: TrainRun, spec: Spec) -> None:
    """Write the train's spec.json with paths that survive a move of the home.

    A custom method's program reads the file itself and expects absolute paths. spec_settle updates
    those before each start.
    """
    write_spec(run.directory, spec, home=None if spec.program else settings.HOME)


def spec_settle(run: TrainRun) -> None:
    """Update spec.json with where the files are now. A file that cannot be read is left to the
    engine, which reports what is wrong with it."""
    try:
        spec = read_spec(run.directory)
    except SpecError:
        return

    old = _home_of(run, spec)
    if old is not None and old != settings.HOME:
        spec = paths_changed(spec, lambda text: _moved(text, old))

    spec_write(run, spec)


def _home_of(run: TrainRun, spec: Spec) -> Path | None:
    """The home in which the spec was written, judging by its path of the dataset."""
    inside = run.dataset.path.relative_to(settings.HOME)
    written = Path(spec.dataset.path)
    if written.parts[-len(inside.parts) :] != inside.parts:
        return None

    return written.parents[len(inside.parts) - 1]


def _moved(text: str, old: Path) -> str:
    path = Path(text)
    if not path.is_relative_to(old):
        return text

    return str(settings.HOME / path.relative_to(old))

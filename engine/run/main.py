"""One train from its run directory to its last event. The platform forks a warm process and calls
`run`, or starts `python -m engine.run.main DIR` where a fork cannot train."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
import traceback
from pathlib import Path

from engine.contract.rundir import (
    EXIT_DISK_FULL,
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_STOPPED,
    MANIFEST,
    MODEL_UNFINISHED,
    EventWriter,
    SpecError,
    checkpoints,
    read_spec,
)
from engine.messages.failures import KNOWN_FAILURES, Stopped, explain, is_disk_full
from engine.run.custom import run_program
from engine.run.job import Job
from engine.schema.registry import RECIPES


def run(directory: Path) -> int:
    """Train what `directory`/spec.json says, write everything there, and return the exit code of
    engine/contract/rundir.py.

    The last event is exactly one of finished, stopped and failed, whatever happens.
    """
    events = EventWriter.resume(directory, _stored_events(directory))
    try:
        program = read_spec(directory).program
        if program is not None:
            return run_program(directory, program)

        job = job_read(directory, events)
        recipe = importlib.import_module(RECIPES[job.spec.recipe].module)
        job.handle_signals()

        return EXIT_FINISHED if recipe.train(job) else EXIT_STOPPED
    except Stopped:
        print("Stopped before the first step: there is nothing to save.", flush=True)
        events.write("stopped", step=0)
        return EXIT_STOPPED
    except Exception as error:
        return _fail(error, directory, events)


def _fail(error: Exception, directory: Path, events: EventWriter) -> int:
    failure = explain(error)
    _remove_unfinished(directory)
    # A full disk takes neither the log nor the last event, and must not hide why the train failed.
    with contextlib.suppress(OSError):
        if not isinstance(error, KNOWN_FAILURES):
            # The evidence for what is said in plain words below.
            traceback.print_exception(error)

        print(f"\nFailed: {failure.message}\n{failure.advice}", flush=True)

    try:
        events.write("failed", code=failure.code, message=failure.message, advice=failure.advice)
    except OSError as second:
        return EXIT_DISK_FULL if is_disk_full(second) else EXIT_FAILED

    return EXIT_FAILED


def _stored_events(directory: Path) -> int:
    try:
        return read_spec(directory).last_seq
    except SpecError:
        # `run` reports it as the train's last event.
        return 0


def _remove_unfinished(directory: Path) -> None:
    """Remove a model and checkpoints that were being written; after a full disk this makes room for
    the last event."""
    shutil.rmtree(directory / MODEL_UNFINISHED, ignore_errors=True)

    for _, folder in checkpoints(directory):
        if not (folder / MANIFEST).exists():
            shutil.rmtree(folder, ignore_errors=True)


def job_read(directory: Path, events: EventWriter) -> Job:
    """The job, with its parameters validated once more: the engine trusts the spec no more than the
    web trusts a form. Raises SpecError and pydantic's ValidationError."""
    spec = read_spec(directory)
    if spec.recipe not in RECIPES:
        raise SpecError(
            f"spec.json names the recipe {spec.recipe!r}, which this engine does not have."
        )

    recipe = RECIPES[spec.recipe]
    for data in (spec.dataset, spec.evaluation_dataset):
        if data is not None and data.format not in recipe.formats:
            raise SpecError(f"{recipe.title} cannot read the dataset format {data.format!r}.")

    parameters = recipe.parameters.model_validate(spec.parameters)
    return Job(directory, spec, parameters, events)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]).absolute()))

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
    Spec,
    SpecError,
    checkpoints,
    read_spec,
)
from engine.distributed.launch import run_ranks
from engine.distributed.ranks import Ranks
from engine.messages.failures import KNOWN_FAILURES, Failure, Stopped, explain, is_disk_full
from engine.process import preload
from engine.process.waiting import threads_spin_briefly
from engine.run.custom import run_program
from engine.run.job import Job
from engine.schema.registry import RECIPES


def run(directory: Path) -> int:
    """Train what `directory`/spec.json says, write everything there, and return the exit code of
    engine/contract/rundir.py.

    The last event is exactly one of finished, stopped and failed, whatever happens.
    """
    threads_spin_briefly()
    events = EventWriter.resume(directory, stored_events(directory))
    try:
        program = read_spec(directory).program
        if program is not None:
            return run_program(directory, program)

        job = job_read(directory, events)
        return _train_on_ranks(job) if job.parameters.devices > 1 else train(job)
    except Exception as error:
        # A full disk takes no log, and must not hide why the train failed.
        with contextlib.suppress(OSError):
            if not isinstance(error, KNOWN_FAILURES):
                # The evidence for what is said in plain words below.
                traceback.print_exception(error)

        return fail(explain(error), directory, events)


def train(job: Job) -> int:
    """Train as one process, or as one of its ranks, to the last event, if that is no failure."""
    recipe = importlib.import_module(RECIPES[job.spec.recipe].module)
    job.handle_signals()

    try:
        return EXIT_FINISHED if recipe.train(job) else EXIT_STOPPED
    except Stopped:
        job.say("Stopped before the first step: there is nothing to save.")
        job.emit("stopped", step=0)
        return EXIT_STOPPED


def _train_on_ranks(job: Job) -> int:
    """Train on several devices: this process starts one for each, watches them and computes
    nothing. The first of them writes all events but a failure."""
    if preload.can_train(job.spec.parameters):
        # Once for all of them. Where the engine was forked it is there already.
        preload.load()

    def work(ranks: Ranks) -> int:
        return train(job.on_rank(ranks))

    ending = run_ranks(job.parameters.devices, job.directory, work)
    if ending.failure is None:
        return ending.code

    events = EventWriter.resume(job.directory, job.events.seq)
    return fail(ending.failure, job.directory, events)


def fail(failure: Failure, directory: Path, events: EventWriter) -> int:
    """The end of a train that failed: its last event, and the exit code."""
    remove_unfinished(directory)
    # A full disk takes neither the log nor the last event.
    with contextlib.suppress(OSError):
        print(f"\nFailed: {failure.message}\n{failure.advice}", flush=True)

    try:
        events.write("failed", code=failure.code, message=failure.message, advice=failure.advice)
    except OSError as second:
        return EXIT_DISK_FULL if is_disk_full(second) else EXIT_FAILED

    return EXIT_FAILED


def stored_events(directory: Path) -> int:
    """The number of the last event of earlier attempts that the web has stored."""
    try:
        return read_spec(directory).last_seq
    except SpecError:
        # `run` reports it as the train's last event.
        return 0


def remove_unfinished(directory: Path) -> None:
    """Remove a model and checkpoints that were being written; after a full disk this makes room for
    the last event."""
    shutil.rmtree(directory / MODEL_UNFINISHED, ignore_errors=True)

    for _, folder in checkpoints(directory):
        if not (folder / MANIFEST).exists():
            shutil.rmtree(folder, ignore_errors=True)


def job_read(directory: Path, events: EventWriter) -> Job:
    """The job, with its parameters validated once more: the engine trusts the spec no more than the
    web trusts a form. Raises SpecError and pydantic's ValidationError."""
    return job_of(directory, read_spec(directory), events)


def job_of(directory: Path, spec: Spec, events: EventWriter) -> Job:
    """As job_read, for a spec that is known."""
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

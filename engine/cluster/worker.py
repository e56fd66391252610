"""One rank of a train on a Ray cluster: what Ray Train runs in each of its workers."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.cluster.checks import clock_check, data_check
from engine.cluster.order import Order
from engine.cluster.report import RankFailed, Report
from engine.cluster.run_files import RunFiles, run_files_of
from engine.cluster.secrets import unseal
from engine.cluster.versions import versions_check
from engine.contract.rundir import (
    LOG,
    EventWriter,
    Spec,
    all_events,
    checkpoint_is_whole,
    checkpoints,
    rank_log,
)
from engine.distributed.launch import is_lost
from engine.distributed.ranks import TIMEOUT, Ranks
from engine.messages.failures import KNOWN_FAILURES, explain
from engine.process.waiting import threads_spin_briefly
from engine.run.job import Job
from engine.run.main import job_of, remove_unfinished, train
from engine.schema.registry import RECIPES

LOG_TAIL_BYTES = 4000
STORAGE = "DEEPEXTENSION_STORAGE"
# By which libraries take a process for one of several.
RANK_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "ACCELERATE_TORCH_DEVICE",
)


class Overtaken(Exception):
    """Another generation of the train writes by now."""


class OwnEvents(EventWriter):
    """A node that was cut off must not write into a train that goes on elsewhere."""

    is_mine: Callable[[], bool]

    def write(self, kind: str, **values: Any) -> int:
        if not self.is_mine():
            raise Overtaken("the train goes on elsewhere")

        return super().write(kind, **values)


def work(config: dict[str, str]) -> None:
    """Be one rank to its end. Raises RankFailed, whatever happens."""
    import ray.train

    order = Order.from_json(config["order"])
    context = ray.train.get_context()
    ranks = Ranks(context.get_world_size(), context.get_world_rank())
    node = node_name()
    files: RunFiles | None = None

    try:
        versions_check(order.versions, node)
        os.environ |= unseal(order.sealed)
        files = run_files_of(order)
        # It has them; people's reward functions run in this process.
        for name in [name for name in os.environ if name.startswith(STORAGE)]:
            del os.environ[name]

        _prepare_process(ranks)
        # What they ask each other goes by the process group, which Ray has made.
        nodes = ranks.gathered(node)

        try:
            files.open(ranks, nodes)
            _redirect_output(files.directory / _log_name(ranks))
            _train(order, ranks, files, nodes)
        except BaseException:
            with contextlib.suppress(Exception):
                files.close(ended=False)
            raise

        files.close(ended=True)
    except BaseException as error:
        with contextlib.suppress(OSError):
            if not isinstance(error, KNOWN_FAILURES):
                # The evidence for what is said in plain words.
                traceback.print_exception(error)

        raise RankFailed.of(report_of(error, ranks, node, files)) from None


def node_name() -> str:
    """As a person knows it, and its address: several may have the same name."""
    import ray.util

    return f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"


def _log_name(ranks: Ranks) -> str:
    return LOG if ranks.is_first else rank_log(ranks.index)


def _redirect_output(path: Path) -> None:
    """Send what this process prints to the train's log, line by line, and no longer to Ray's."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)

    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = open(number, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115 - it stays open
        setattr(sys, name, stream)


def _train(order: Order, ranks: Ranks, files: RunFiles, nodes: list[str]) -> None:
    if ranks.of_first(_has_ended(files.directory, order.first_seq)):
        # The last event was written when somebody was lost.
        return

    spec = resumed_spec(order, ranks, files)
    data_check(ranks, nodes, spec)

    events = OwnEvents.resume(files.directory, spec.last_seq) if ranks.is_first else None
    if isinstance(events, OwnEvents):
        events.is_mine = files.is_mine

    job = job_of(files.directory, spec, events or EventWriter(files.directory))
    job = replace(
        job.on_rank(ranks),
        place={"cluster": order.cluster, "nodes": list(dict.fromkeys(nodes))},
        saved=files.saved,
        began=time.monotonic() - order.elapsed,
    )

    _warn(order, ranks, nodes, files, job)
    train(job)


def _prepare_process(ranks: Ranks) -> None:
    threads_spin_briefly()
    # Ray lets libraries print more than they do elsewhere.
    logging.getLogger().setLevel(logging.WARNING)

    import torch

    if ranks.are_several:
        # They have met. From now on one may compute for long while the others wait.
        torch.distributed.distributed_c10d._set_pg_timeout(TIMEOUT)
        return

    # A train of one device is no distributed one.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()

    for name in RANK_VARIABLES:
        os.environ.pop(name, None)


def _has_ended(directory: Path, first_seq: int) -> bool:
    return any(
        event["type"] in ("finished", "stopped") and event["seq"] > first_seq
        for event in all_events(directory)
    )


def resumed_spec(order: Order, ranks: Ranks, files: RunFiles) -> Spec:
    """The spec of this start: on as many devices as there are, and from the last checkpoint that this
    attempt has saved."""
    spec = files.spec()
    if order.resume_from:
        spec = replace(spec, resume_from=str(files.directory / order.resume_from))
    if order.generation == 1:
        return spec

    if ranks.is_first:
        remove_unfinished(files.directory)

    name = ranks.of_first(_last_checkpoint(order, files.directory) if ranks.is_first else "")
    resumed = str(files.directory / name) if name else spec.resume_from
    spec = replace(spec, attempt=max(2, spec.attempt), resume_from=resumed)
    return replace(spec, parameters=_shared_out(order, spec, ranks.count))


def _last_checkpoint(order: Order, directory: Path) -> str:
    """Relative to the run directory; "" where this attempt has saved none. One of an earlier attempt,
    beyond where this one began, was not asked for."""
    saved = {
        event["step"]
        for event in all_events(directory)
        if event["type"] == "checkpoint" and event["seq"] > order.first_seq
    }
    for step, folder in checkpoints(directory):
        if step in saved and checkpoint_is_whole(folder):
            return str(folder.relative_to(directory))

    return ""


def _shared_out(order: Order, spec: Spec, count: int) -> dict[str, Any]:
    """The parameters for `count` devices: each computes more batches before a step, so that a step
    learns from as many rows as before."""
    if count == order.devices:
        return spec.parameters

    changes = {"devices": count, "gradient_accumulation_steps": order.units // count}
    return spec.parameters | changes


def _warn(order: Order, ranks: Ranks, nodes: list[str], files: RunFiles, job: Job) -> None:
    """Of what is not as it should be, and need not end the train."""
    if order.lost:
        step = job.resumed_step
        place = f"step {step:,}" if step else "the beginning"
        job.warn(
            "node_lost",
            f"{order.lost} The train resumes from {place} on {ranks.count} of {order.devices} "
            "devices.",
        )

    lease = files.lease()
    ahead = time.time() - lease.time if lease is not None else None
    clock_check(ranks, nodes, ahead, job.warn)


def report_of(error: BaseException, ranks: Ranks, node: str, files: RunFiles | None) -> Report:
    """How this rank ended, for the driver."""
    failure = explain(error)
    if failure.code in ("disk_full", "out_of_memory", "no_permission", "file_gone"):
        failure = replace(failure, message=f"On node {node}: {failure.message}")

    tail = ""
    if files is not None and not ranks.is_first:
        tail = _log_tail(files.directory / _log_name(ranks))

    lost = isinstance(error, Overtaken) or is_lost(error)
    return Report(failure, ranks.index, node, lost, tail)


def _log_tail(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - LOG_TAIL_BYTES))
            return stream.read(LOG_TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def can_be_fewer(spec: Spec, units: int) -> int:
    """`units`, where a train can go on with fewer devices than it began with; else 0: ranks that write
    answers have kept those that are still to be learned from, and a split model its parts."""
    recipe = RECIPES[spec.recipe]
    if recipe.learns_from_rewards or spec.parameters.get("strategy") == "shard":
        return 0

    return units

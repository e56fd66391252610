"""The Ray job of a train: starts its workers, and again after some were lost. Without the client's sign
of life it ends, and Ray ends the workers with it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field, replace
from typing import Any

from engine.cluster.driver_log import log_write
from engine.cluster.lease import LeaseWatch
from engine.cluster.order import ORDER, Order
from engine.cluster.report import Report, report_in
from engine.cluster.run_files import RunFiles, run_files_of
from engine.cluster.secrets import unseal
from engine.cluster.versions import versions_check
from engine.contract.rundir import EXIT_FAILED, EXIT_FINISHED
from engine.messages.failures import (
    KNOWN_FAILURES,
    RANK_KILLED,
    Failure,
    TrainError,
    explain,
    failure_from_text,
)
from engine.messages.plural import counted

TICK_SECONDS = 1.0
# How long a train waits for devices that it has never had, or of which too few are left.
GATHERING_SECONDS = 600.0
# How often workers may be lost, one soon after the other.
MOST_LOSSES = 5
# A start of the workers that lasted so long was none of a series.
QUIET_SECONDS = 1800.0
# In which Ray tells that a machine is gone whose worker it knows to be dead; and where it has not
# noticed anything but that the others lost somebody: until then it would start new workers there.
NOTICE_SECONDS = 3.0
SEARCH_SECONDS = 20.0
# How long ranks may take to find each other: a firewall between two nodes is silent.
MEETING_SECONDS = 300
# Ray's words about a worker that is gone.
NODE_WORDS = "its node has died"
MEMORY_WORDS = "node running low on memory"
# Torch's, of processes that wait for each other and do not come.
MEETING_ERRORS = ("DistStoreError", "DistNetworkError")
MEETING_ADVICE = (
    "Ask your operator: nodes of a Ray cluster must reach each other on all ports. The job's log on "
    "the cluster has the whole error."
)


@dataclass
class Lost(Exception):
    """Workers ended without a failure of their own. `reason`: a sentence."""

    reason: str


class Failed(Exception):
    def __init__(self, report: Report) -> None:
        super().__init__(report.failure.message)
        self.report = report


@dataclass
class Driver:
    order: Order
    began: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Train to the end. Raises Failed and TrainError."""
        losses = 0
        while True:
            count = self._devices_await()
            self._files().begin()
            started = time.monotonic()
            log_write(phase="running", devices=count)

            try:
                self._train(count)
                return
            except Lost as lost:
                is_series = time.monotonic() - started < QUIET_SECONDS
                losses = losses + 1 if is_series else 1
                if losses > MOST_LOSSES:
                    raise TrainError(
                        RANK_KILLED,
                        f"{lost.reason} That was the {losses}th time.",
                        "Ask your operator why nodes of the Ray cluster are lost, and resume the "
                        "train.",
                    ) from lost

                log_write(say=lost.reason, phase="waiting")
                self.order = self.order.again(lost.reason, time.monotonic() - self.began)

    def _files(self) -> RunFiles:
        return run_files_of(self.order)

    def _devices_await(self) -> int:
        """Wait for devices; the number to train on. Raises TrainError where they do not come."""
        order = self.order
        began = time.monotonic()
        said_at = 0.0

        while True:
            available = devices_available(order)
            waited = time.monotonic() - began
            # One that was lost may come back.
            is_patient = order.generation == 1 or waited < order.return_seconds
            count = order.devices if available >= order.devices else 0
            if not count and not is_patient:
                count = order.fewer(available)
            if count:
                return count

            if waited > GATHERING_SECONDS:
                raise TrainError(
                    "too_few_devices",
                    f"The Ray cluster has {counted(available, 'free device')}, and the train asks "
                    f"for {order.devices:,}.",
                    "Start nodes and resume the train, or copy it with fewer devices.",
                )
            if waited >= said_at:
                log_write(
                    phase="waiting",
                    say=f"Waiting for devices of the Ray cluster: {available:,} of "
                    f"{order.devices:,} are free.",
                )
                said_at = waited + 60

            time.sleep(TICK_SECONDS)

    def _train(self, count: int) -> None:
        """Raises Lost and Failed."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer

        from engine.cluster.worker import work

        order = self.order
        before = nodes_alive()
        resources = {"CPU": order.cpus} | ({"GPU": 1} if order.gpus else {})
        trainer = TorchTrainer(
            work,
            train_loop_config={"order": order.to_json()},
            scaling_config=ScalingConfig(
                num_workers=count, use_gpu=order.gpus, resources_per_worker=resources
            ),
            torch_config=TorchConfig(
                backend="cpu:gloo,cuda:nccl" if order.gpus else "gloo",
                # Of the ranks' meeting; later they wait for each other for longer, see the worker.
                timeout_s=MEETING_SECONDS,
            ),
            run_config=RunConfig(
                name=f"{order.job}-{order.generation}",
                storage_path=tempfile.gettempdir(),
                # Each start is one of the driver's own.
                failure_config=FailureConfig(
                    max_failures=0, controller_failure_limit=0, max_preemption_failures=0
                ),
            ),
        )

        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise cause_of(error, before, count) from error


def devices_available(order: Order) -> int:
    """Free devices."""
    import ray

    kind, size = ("GPU", 1) if order.gpus else ("CPU", order.cpus)
    nodes = [node.get("Resources", {}) for node in ray.nodes() if node.get("Alive")]
    there = sum(int(resources.get(kind, 0)) // size for resources in nodes)
    free = int(ray.available_resources().get(kind, 0)) // size
    return min(there, free)


def nodes_alive() -> dict[str, str]:
    """{id: address}."""
    import ray

    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def cause_of(error: Any, before: dict[str, str], count: int) -> Lost | Failed:
    """Why workers ended, from what Ray raises. A rank's own failure is the cause of the others'."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    reports = {rank: report_in(failure) for rank, failure in failures.items()}

    for report in reports.values():
        if report is not None and not report.lost:
            return Failed(report)

    silent = {rank: str(failures[rank]) for rank, report in reports.items() if report is None}
    text = "\n".join(silent.values()) or str(error)
    memory = failure_from_text(text) if MEMORY_WORDS in text else None
    if memory is not None:
        node = ", ".join(_addresses(text))
        memory = replace(memory, message=f"On node {node}: {memory.message}")
        return Failed(Report(memory, min(silent, default=0), node))

    gone = _nodes_gone(before, NOTICE_SECONDS if silent else SEARCH_SECONDS)
    if not gone and NODE_WORDS in text:
        gone = _addresses(text)
    if len(gone) == 1:
        return Lost(f"Node {gone[0]} of the Ray cluster was lost.")
    if gone:
        return Lost(f"Nodes {', '.join(gone)} of the Ray cluster were lost.")

    if silent:
        place = f", on node {found[0]}," if (found := _addresses(text)) else ""
        return Lost(f"Rank {min(silent)} of {count}{place} was killed.")

    return _cause_at_start(getattr(error, "controller_failure", None), count)


def _cause_at_start(failure: BaseException | None, count: int) -> Lost | Failed:
    """Why ranks did not begin, from what Ray raises beside them."""
    if failure is None:
        return Lost("The ranks lost each other.")

    traceback.print_exception(failure)
    if type(failure).__name__ == "WorkerGroupStartupTimeoutError":
        return Lost(f"The Ray cluster did not start {counted(count, 'rank')} in time.")
    if any(word in str(failure) for word in MEETING_ERRORS):
        words = f"The {count} ranks of the train did not find each other. {_last_line(failure)}"
        return Failed(Report(Failure("cluster_ended", words, MEETING_ADVICE), 0, ""))

    return Lost(f"The ranks could not begin. {_last_line(failure)}")


def _last_line(failure: BaseException) -> str:
    lines = str(failure).strip().splitlines() or [type(failure).__name__]
    return lines[-1].strip()[:300]


def _addresses(text: str) -> list[str]:
    """Of the nodes that Ray's words about a dead worker name."""
    return list(dict.fromkeys(re.findall(r"^\s*ip: (\S+)$", text, re.MULTILINE)))


def _nodes_gone(before: dict[str, str], patience: float) -> list[str]:
    """Waits until Ray has noticed."""
    deadline = time.monotonic() + patience
    while True:
        now = nodes_alive()
        gone = sorted(address for node, address in before.items() if node not in now)
        if gone or time.monotonic() > deadline:
            return gone

        time.sleep(TICK_SECONDS / 4)


def lease_keep(order: Order) -> None:
    """End this process, and all workers with it, when the client is gone."""
    files = run_files_of(order)
    watch = LeaseWatch(order.job, order.lease_seconds)

    while not watch.is_over:
        # Without this look the train would outlive its platform.
        with contextlib.suppress(Exception):
            watch.see(files.lease())

        time.sleep(TICK_SECONDS)

    log_write(say=f"The platform has not been heard from for {order.lease_seconds:.0f} s.")
    os._exit(EXIT_FAILED)


def main() -> int:
    order = Order.from_json(os.environ[ORDER])

    try:
        import ray

        ray.init(log_to_driver=False)
        versions_check(order.versions, ray.util.get_node_ip_address())
        os.environ |= unseal(order.sealed)
        threading.Thread(target=lease_keep, args=(order,), daemon=True).start()
        Driver(order).run()
    except Failed as failed:
        report = failed.report
        log_write(ending=_ending(report.failure), rank=report.rank, log=report.log)
        return EXIT_FAILED
    except Exception as error:
        if not isinstance(error, KNOWN_FAILURES):
            traceback.print_exception(error)

        log_write(ending=_ending(explain(error)))
        return EXIT_FAILED

    return EXIT_FINISHED


def _ending(failure: Failure) -> dict[str, str]:
    return {"code": failure.code, "message": failure.message, "advice": failure.advice}


if __name__ == "__main__":
    sys.exit(main())

"""The ranks of a train as processes: started, watched and ended by the process of the engine.

    fork server -> engine (starts and watches, computes nothing) -> rank 0, rank 1 …

Each rank is forked, so that it has all libraries at once; that needs a process that has run no
tensor operation (engine.process.preload says why). The kernel ends the ranks with the engine, and
the engine ends them all as soon as one of them fails or dies: the others would wait for it for
ever, or learn on without it. They listen on the loopback interface alone."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from engine.contract.rundir import EXIT_FAILED, EXIT_FINISHED, EXIT_STOPPED, rank_log
from engine.distributed.ranks import Ranks
from engine.messages.failures import KNOWN_FAILURES, RANK_KILLED, Failure, explain
from engine.process.isolation import IS_LINUX, die_with_parent

TICK_SECONDS = 0.02
# How long the others may take to say why they failed once one has lost its neighbour: the cause is
# with the one that left.
CAUSE_SECONDS = 3.0
# How long they may take to leave once rank 0 has ended well.
LEAVING_SECONDS = 10.0
LOG_TAIL_BYTES = 8192
# A report must fit into a pipe that nobody reads yet.
LONGEST_TEXT = 4000
# What torch and its backends raise where another rank is gone.
LOST_WORDS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")


@dataclass(frozen=True)
class Report:
    """Why a rank failed. lost: it lost another one, which is the cause."""

    failure: Failure
    lost: bool = False


@dataclass(frozen=True)
class Ending:
    """How all of them ended: the exit code of rank 0, and the failure where there is one."""

    code: int
    failure: Failure | None = None


@dataclass
class Rank:
    """One process. status: its exit code, negative for a signal, None while it runs."""

    index: int
    pid: int
    reports: int
    status: int | None = None
    report: Report | None = None
    was_ended: bool = False

    @property
    def is_well(self) -> bool:
        return self.status in (EXIT_FINISHED, EXIT_STOPPED)

    @property
    def was_killed(self) -> bool:
        """By somebody else."""
        return self.status is not None and self.status < 0 and not self.was_ended


def run_ranks(count: int, directory: Path, work: Callable[[Ranks], int]) -> Ending:
    """Run `work`, which returns an exit code of engine/contract/rundir.py, in `count` processes, and
    wait for them. All but the first write their output into a log of their own in `directory`."""
    meeting = Path(tempfile.mkdtemp(prefix="ranks-"))
    ranks: list[Rank] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        # As engine.run.job does: a second one ends this process, and the ranks with it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for rank in ranks:
            if rank.status is None:
                # One that has ended in this moment is looked at next.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rank.pid, number)

    # One that comes before all have been started waits until then.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    before = signal.signal(signal.SIGTERM, pass_on)
    port = _free_port()

    try:
        for index in range(count):
            rank = _start(Ranks(count, index, meeting / "store"), port, directory, work)
            ranks.append(rank)

        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
        _watch(ranks)
        return _ending(ranks, directory)
    finally:
        _end_all(ranks)
        signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
        shutil.rmtree(meeting, ignore_errors=True)


def _free_port() -> int:
    """For libraries that need one, such as vLLM; the ranks meet through a file."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(ranks: Ranks, port: int, directory: Path, work: Callable[[Ranks], int]) -> Rank:
    parent = os.getpid()
    reports, theirs = os.pipe()
    # Else the fork would print what is buffered a second time.
    sys.stdout.flush()
    sys.stderr.flush()

    pid = os.fork()
    if pid == 0:
        os.close(reports)
        _become(ranks, parent, port, directory, theirs, work)

    os.close(theirs)
    return Rank(ranks.index, pid, reports)


def _become(
    ranks: Ranks,
    parent: int,
    port: int,
    directory: Path,
    reports: int,
    work: Callable[[Ranks], int],
) -> NoReturn:
    """In the fork: be this rank to its end. SIGTERM stays blocked until `work` handles it."""
    code = EXIT_FAILED
    try:
        die_with_parent(parent, signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ |= _environment(ranks, port)
        if not ranks.is_first:
            _redirect_output(directory / rank_log(ranks.index))

        code = work(ranks)
    except BaseException as error:
        # First of all: a full disk takes no log.
        _report(error, reports)
        with contextlib.suppress(OSError):
            if not isinstance(error, KNOWN_FAILURES):
                # The evidence for what is said in plain words.
                traceback.print_exception(error)
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()

        # Not sys.exit: what the process that was forked is to clean up is not this one's.
        os._exit(code)


def _environment(ranks: Ranks, port: int) -> dict[str, str]:
    """By which accelerate and the libraries of processes that work together know each other."""
    values = {
        "RANK": str(ranks.index),
        "LOCAL_RANK": str(ranks.index),
        "WORLD_SIZE": str(ranks.count),
        "LOCAL_WORLD_SIZE": str(ranks.count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }

    if "OMP_NUM_THREADS" not in os.environ:
        from engine.run.hardware import thread_count

        values["OMP_NUM_THREADS"] = str(max(1, thread_count() // ranks.count))

    if IS_LINUX:
        values |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}

    return values


def _redirect_output(path: Path) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _report(error: BaseException, reports: int) -> None:
    texts = {name: text[:LONGEST_TEXT] for name, text in asdict(explain(error)).items()}
    os.write(reports, json.dumps(texts | {"lost": is_lost(error)}).encode())


def is_lost(error: BaseException) -> bool:
    """Whether another rank is gone, and this one noticed."""
    is_distributed = any(kind.__name__ == "DistError" for kind in type(error).__mro__)
    text = str(error).lower()
    return is_distributed or (
        isinstance(error, RuntimeError) and any(word in text for word in LOST_WORDS)
    )


def _watch(ranks: list[Rank]) -> None:
    """Until all have ended, by themselves or, once one has failed or the first has ended, by us."""
    deadline: float | None = None

    while any(rank.status is None for rank in ranks):
        for rank in ranks:
            _look_at(rank)

        waits = _patience(ranks)
        if waits is not None:
            deadline = min(deadline or float("inf"), time.monotonic() + waits)
            if time.monotonic() >= deadline:
                _end_all(ranks)
                return

        time.sleep(TICK_SECONDS)


def _look_at(rank: Rank) -> None:
    if rank.status is not None:
        return

    ended, status = os.waitpid(rank.pid, os.WNOHANG)
    if not ended:
        return

    rank.status = os.waitstatus_to_exitcode(status)
    with os.fdopen(rank.reports, "rb") as stream:
        text = stream.read()

    if text:
        values = json.loads(text)
        lost = values.pop("lost")
        rank.report = Report(Failure(**values), lost)


def _patience(ranks: list[Rank]) -> float | None:
    """Seconds that those who still run may take; None while nothing speaks against them."""
    ended = [rank for rank in ranks if rank.status is not None]
    failed = [rank for rank in ended if not rank.is_well]
    if any(rank.was_killed or (rank.report and not rank.report.lost) for rank in failed):
        return 0.0
    if failed:
        return CAUSE_SECONDS
    if any(rank.index == 0 for rank in ended):
        return LEAVING_SECONDS

    return None


def _end_all(ranks: list[Rank]) -> None:
    """Kill those that still run, and wait for them."""
    for rank in ranks:
        _look_at(rank)
        if rank.status is not None:
            continue

        rank.was_ended = True
        os.kill(rank.pid, signal.SIGKILL)
        os.waitpid(rank.pid, 0)
        rank.status = -signal.SIGKILL
        os.close(rank.reports)


def _ending(ranks: list[Rank], directory: Path) -> Ending:
    first = ranks[0]
    if first.is_well:
        _remove_logs(ranks, directory)
        return Ending(first.status or EXIT_FINISHED)

    cause = _cause(ranks)
    _show_log(cause, directory)
    if cause.was_killed:
        name = signal.Signals(-(cause.status or 0)).name
        return Ending(EXIT_FAILED, killed(cause.index, len(ranks), name))

    if cause.report is None:
        return Ending(EXIT_FAILED, unsaid(cause.index, len(ranks), cause.status))

    return Ending(EXIT_FAILED, cause.report.failure)


def _cause(ranks: list[Rank]) -> Rank:
    """The one to whom the others' failure is owed."""

    def likelihood(rank: Rank) -> int:
        if rank.was_killed:
            return 0
        if rank.report is not None and not rank.report.lost:
            return 1
        if rank.was_ended or rank.is_well:
            return 4

        return 2 if rank.report is None else 3

    return min(ranks, key=likelihood)


def killed(index: int, count: int, signal_name: str) -> Failure:
    return Failure(
        RANK_KILLED,
        f"Rank {index} of {count} was killed ({signal_name}), so the whole train ended.",
        "What was saved until then is whole: resume the train. If it recurs, ask your operator "
        "whether memory ran out.",
    )


def unsaid(index: int, count: int, status: int | None) -> Failure:
    return Failure(
        "unknown",
        f"Rank {index} of {count} ended with exit code {status} and did not say why.",
        "The end of the Train Log shows what it wrote last.",
    )


def _show_log(rank: Rank, directory: Path) -> None:
    """What a rank that failed wrote last, in the train's log; that of the first is there."""
    if not rank.index:
        return

    try:
        with (directory / rank_log(rank.index)).open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - LOG_TAIL_BYTES))
            text = stream.read(LOG_TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return

    print(f"\nThe end of the log of rank {rank.index}:\n{text.rstrip()}", flush=True)


def _remove_logs(ranks: list[Rank], directory: Path) -> None:
    for rank in ranks[1:]:
        (directory / rank_log(rank.index)).unlink(missing_ok=True)

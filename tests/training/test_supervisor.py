"""A real engine process, forked and supervised; what it does is set by each test."""

import contextlib
import json
import os
import signal
import socket
import time
from types import SimpleNamespace

import psutil
import pytest
from django.db import OperationalError, connections
from django.test import override_settings

from engine.contract.rundir import EXIT_STOPPED, EventWriter, stop_requested
from engine.process.forkserver import ForkServer
from jobs.devices import presence
from jobs.devices.engine_process import Engine, WarmProcess
from jobs.devices.locks import DeviceLocks
from jobs.devices.lost_workers import worker_declare_lost
from jobs.devices.supervisor import Supervisor
from tests.training.claims import machine_of, presences_of
from training.models import TrainRun
from training.work import supervisor
from training.work.supervisor import supervise_next


@pytest.fixture
def engine_does(monkeypatch):
    """Engines run this in place of a train. The process that they are forked from is a fork of the
    test's own."""
    servers = []

    def choose(function, can_train=True):
        monkeypatch.setattr("engine.run.main.run", function)
        monkeypatch.setattr("engine.process.preload.can_train", lambda parameters: can_train)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if (pid := os.fork()) == 0:
            ours.close()
            ForkServer(theirs).serve()
            os._exit(0)
        theirs.close()
        monkeypatch.setattr(Engine, "warm", WarmProcess(ours))
        servers.append((ours, pid))

    before = signal.getsignal(signal.SIGTERM)
    yield choose
    signal.signal(signal.SIGTERM, before)
    for ours, pid in servers:
        ours.close()
        os.waitpid(pid, 0)


@pytest.fixture
def queued(make_train):
    run = make_train()
    run.directory.mkdir(parents=True, exist_ok=True)
    for path in run.directory.iterdir():
        if path.is_file():
            path.unlink()
    return run


def work(run: TrainRun) -> TrainRun:
    supervise_next("worker-1")
    run.refresh_from_db()
    return run


def test_it_sees_a_train_through_and_reads_what_it_wrote(engine_does, queued):
    def engine(directory):
        events = EventWriter(directory)
        events.write("started", total_steps=1)
        events.write("metrics", step=1, epoch=1.0, split="train", values={"loss": 1.5})
        (directory / "model").mkdir(exist_ok=True)
        # Not print: in a test, sys.stdout is not the standard output that the child redirected.
        os.write(1, b"a line for people\n")
        events.write("finished")
        return 0

    engine_does(engine)
    run = work(queued)

    assert run.status == "finished", (run.directory / "train.log").read_text()
    assert (run.status, run.step, run.last_metrics) == ("finished", 1, {"loss": 1.5})
    assert run.worker == "worker-1"
    assert run.started_at <= run.finished_at
    assert (run.directory / "train.log").read_text() == "a line for people\n"


def test_where_a_fork_cannot_train_a_fresh_process_trains(engine_does, queued):
    """There is no spec here, and only the real engine looks for it."""
    engine_does(lambda directory: EventWriter(directory).write("finished") or 0, can_train=False)
    run = work(queued)
    assert (run.status, run.error_code) == ("failed", "bad_spec")
    assert "spec.json" in (run.directory / "train.log").read_text()


def stop_soon(run: TrainRun) -> None:
    """As the service does, once the train runs: from inside the engine process, which knows when
    that is."""
    TrainRun.objects.filter(pk=run.pk, status="running").update(status="stopping")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("ignores", "wanted"),
    [((), "stop file"), (("stop file",), "SIGTERM"), (("stop file", "SIGTERM"), "SIGKILL")],
)
@override_settings(STOP_GRACE_SECONDS=1)
def test_stop_climbs_until_the_engine_gives_way(engine_does, queued, monkeypatch, ignores, wanted):
    def engine(directory):
        if "SIGTERM" in ignores:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (directory / "ready").touch()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if "stop file" not in ignores and stop_requested(directory):
                EventWriter(directory).write("stopped", step=1)
                return EXIT_STOPPED
            time.sleep(0.02)
        return 0

    engine_does(engine)
    seen = []
    original = Engine.signal

    def record(self, sign):
        seen.append(signal.Signals(sign).name)
        original(self, sign)

    monkeypatch.setattr(Engine, "signal", record)
    heartbeat = Supervisor.heartbeat

    def ask_once_ready(self):
        if (queued.directory / "ready").exists():
            stop_soon(queued)
        heartbeat(self)

    monkeypatch.setattr(Supervisor, "heartbeat", ask_once_ready)

    run = work(queued)

    assert run.status == "stopped"
    assert {"stop file": [], "SIGTERM": ["SIGTERM"], "SIGKILL": ["SIGTERM", "SIGKILL"]}[
        wanted
    ] == seen


def test_a_train_that_was_stopped_before_it_was_claimed_is_left_alone(engine_does, queued):
    engine_does(lambda directory: os.abort())
    queued.transition(TrainRun.Status.STOPPED)

    assert work(queued).status == "stopped"
    assert not (queued.directory / "train.log").exists()


def test_a_database_that_is_away_at_the_end_is_waited_for(engine_does, queued, monkeypatch):
    """How the engine ended is known to its supervisor alone."""
    engine_does(lambda directory: os.kill(os.getpid(), signal.SIGKILL))
    end, refused = supervisor.train_end_or_resume, []

    def refuse_twice(run, outcome):
        if len(refused) < 2:
            refused.append(outcome)
            # As a transaction leaves it that went back to the queue and could not be committed.
            run.status, run.attempt = "queued", 2
            raise OperationalError("the connection is closed")
        return end(run, outcome)

    monkeypatch.setattr(supervisor, "train_end_or_resume", refuse_twice)
    run = work(queued)
    assert (run.status, run.error_code, run.attempt) == ("failed", "killed", 1)


def trains_on(directory) -> int:
    (directory / "pid").write_text(str(os.getpid()))
    time.sleep(60)
    return 0


def engine_ends(run: TrainRun) -> bool:
    """Whether the engine process of `trains_on`, which would go on for a minute, ends soon."""
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int((run.directory / "pid").read_text())).wait(timeout=20)
    return True


def test_a_train_marked_as_unheard_of_is_given_up_while_the_database_is_away(
    engine_does, queued, monkeypatch
):
    engine_does(trains_on)

    def away(run):
        if (run.directory / "pid").exists():
            worker_declare_lost(run)
        raise OperationalError("no way to the database")

    monkeypatch.setattr(supervisor, "ingest", away)
    with override_settings(HEARTBEAT_LIMIT_SECONDS=6):
        run = work(queued)
    assert (run.status, run.attempt) == ("running", 1)
    assert engine_ends(queued)


def test_a_quiet_engine_is_given_up_as_well_while_the_database_is_away(
    engine_does, queued, monkeypatch
):
    """Where it writes nothing, only the heartbeat asks the database, and not at every look."""
    engine_does(trains_on)

    def away():
        if (queued.directory / "pid").exists():
            worker_declare_lost(queued)
        raise OperationalError("no way to the database")

    monkeypatch.setattr("jobs.devices.supervisor.HEARTBEAT_SECONDS", 0.5)
    monkeypatch.setattr("jobs.devices.supervisor.timezone", SimpleNamespace(now=away))
    with override_settings(HEARTBEAT_LIMIT_SECONDS=6):
        run = work(queued)
    assert (run.status, run.attempt) == ("running", 1)
    assert engine_ends(queued)


def test_an_overtaken_attempt_kills_its_engine_and_writes_nothing(engine_does, queued, monkeypatch):
    engine_does(trains_on)
    heartbeat = Supervisor.heartbeat

    def overtake_once_ready(self):
        if (queued.directory / "pid").exists():
            TrainRun.objects.filter(pk=queued.pk).update(attempt=2)
        heartbeat(self)

    monkeypatch.setattr(Supervisor, "heartbeat", overtake_once_ready)
    run = work(queued)

    assert (run.status, run.attempt) == ("running", 2)
    assert engine_ends(queued)


def test_a_fork_server_that_was_killed_is_a_lost_worker_and_no_lack_of_memory(engine_does, queued):
    engine_does(lambda directory: os.kill(os.getppid(), signal.SIGKILL) or trains_on(directory))
    run = work(queued)
    # Without a spec it cannot come back by itself, see tests/e2e/test_faults.py.
    assert (run.status, run.error_code) == ("failed", "worker_lost")


def saves_for_a_while(directory) -> int:
    """An engine that needs a second from its stop file to its last event."""
    (directory / "ready").touch()
    deadline = time.monotonic() + 30
    while not stop_requested(directory):
        assert time.monotonic() < deadline
        time.sleep(0.02)

    (directory / "saving").touch()
    time.sleep(1)
    EventWriter(directory).write("stopped", step=1)
    return EXIT_STOPPED


@pytest.mark.django_db(transaction=True)
@override_settings(STOP_GRACE_SECONDS=600)
def test_a_shutdown_during_somebodys_stop_leaves_the_save_the_time_of_a_shutdown(
    engine_does, queued, monkeypatch
):
    engine_does(saves_for_a_while)
    monkeypatch.setattr("jobs.devices.supervisor.SHUTDOWN_GRACE_SECONDS", 30)
    signals = []
    original = Engine.signal
    monkeypatch.setattr(
        Engine, "signal", lambda self, number: signals.append(number) or original(self, number)
    )
    heartbeat = Supervisor.heartbeat

    def stop_then_shut_down(self):
        if (queued.directory / "ready").exists():
            stop_soon(queued)
        heartbeat(self)

        if (queued.directory / "saving").exists() and not self.shutting_down:
            # Somebody asked for it long before.
            self.stage_since -= 60
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Supervisor, "heartbeat", stop_then_shut_down)
    run = work(queued)
    assert (run.status, run.outcome.get("step"), signals) == ("stopped", 1, [])


@pytest.mark.django_db(transaction=True)
def test_a_stop_just_after_the_engine_died_does_not_hide_why(engine_does, queued, monkeypatch):
    engine_does(lambda directory: os.kill(os.getpid(), signal.SIGKILL))
    read_events = supervisor.TrainSupervisor.read_events

    def asked_at_the_end(self):
        read_events(self)
        if self.job.status == "running" and (queued.directory / "train.log").exists():
            stop_soon(queued)

    monkeypatch.setattr(supervisor.TrainSupervisor, "read_events", asked_at_the_end)
    monkeypatch.setattr(Supervisor, "heartbeat", lambda self: None)
    run = work(queued)
    assert (run.status, run.error_code) == ("failed", "killed")


def test_an_engine_begins_only_once_the_one_before_it_has_left(engine_does, queued):
    """Two at once would write into one run directory and share the device's memory."""
    path = queued.directory / "first"

    def engine(directory):
        if path.exists():
            return 3 if psutil.pid_exists(int(path.read_text())) else 4
        path.write_text(str(os.getpid()))
        time.sleep(60)
        return None

    engine_does(engine)
    first = Engine.start(queued.directory)
    deadline = time.monotonic() + 30
    # It is there before it is written.
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = Engine.start(queued.directory)
    while second.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (second.status, first.poll()) == (4, -signal.SIGKILL)


# Trains of several devices


@pytest.fixture
def wide(queued, monkeypatch, settings, tmp_path):
    """A train for both devices of this machine, which has a worker for each."""
    settings.HOME = tmp_path
    machine = machine_of(2)
    monkeypatch.setattr(presence, "workers_present", lambda: presences_of(machine))
    TrainRun.objects.filter(pk=queued.pk).update(parameters={"devices": 2})
    queued.refresh_from_db()
    queued.directory.mkdir(parents=True, exist_ok=True)
    return queued, machine


def tells_what_it_has(directory) -> int:
    """An engine that writes its environment, and whether somebody could take its devices."""
    locks = DeviceLocks()
    taken = [name for name in ("cpu:0", "cpu:1") if locks.take(name)]
    seen = {"threads": os.environ.get("OMP_NUM_THREADS"), "taken": taken}
    (directory / "seen").write_text(json.dumps(seen))
    (directory / "model").mkdir(exist_ok=True)
    EventWriter(directory).write("finished")
    return 0


def test_an_engine_has_the_devices_of_its_train(engine_does, wide):
    queued, machine = wide
    engine_does(tells_what_it_has)
    supervise_next(machine.workers["cpu:1"])
    queued.refresh_from_db()
    assert (queued.status, queued.worker) == ("finished", machine.workers["cpu:1"]), queued.error
    assert json.loads((queued.directory / "seen").read_text()) == {"threads": "2", "taken": []}
    assert queued.device_labels == ["cpu 0", "cpu 1"]

    locks = DeviceLocks()
    assert [locks.take(name) for name in ("cpu:0", "cpu:1")] == [True, True]
    locks.close()


@pytest.mark.django_db(transaction=True)
def test_devices_are_free_once_a_killed_supervisor_and_its_engine_have_left(engine_does, wide):
    queued, machine = wide
    engine_does(trains_on)
    if (pid := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            connections.close_all()
            supervise_next(machine.workers["cpu:0"])
        os._exit(1)

    deadline = time.monotonic() + 30
    while not (queued.directory / "pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)

    locks = DeviceLocks()
    assert not locks.take("cpu:1")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    # The fork server sees that nobody holds the engine's channel any more.
    while not all(locks.take(name) for name in ("cpu:0", "cpu:1")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    locks.close()
    assert engine_ends(queued)

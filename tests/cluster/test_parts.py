"""The parts of a train on a cluster that need no cluster."""

import errno
import io
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.cluster import driver, secrets
from engine.cluster.api import ClusterAway, RayApi
from engine.cluster.client import Client, Settings
from engine.cluster.code import package
from engine.cluster.driver import Failed, Lost, cause_of
from engine.cluster.driver_log import log_entries, log_write
from engine.cluster.jobs import JobState
from engine.cluster.lease import Lease, LeaseWatch, lease_read, lease_write
from engine.cluster.order import Order
from engine.cluster.report import RankFailed, Report, report_in
from engine.cluster.run_files import SharedFolder
from engine.cluster.state import Node, cluster_state, cpus_a_device, devices_of
from engine.cluster.versions import versions_check, versions_here
from engine.cluster.worker import Overtaken, OwnEvents, report_of, resumed_spec
from engine.contract.rundir import EXIT_FINISHED, EventWriter, all_events, checkpoint_seal
from engine.distributed.ranks import Ranks
from engine.messages.failures import Failure, TrainError
from engine.run.main import job_read
from tests.engine.runs import prepare, toy_rows


def order(**given) -> Order:
    values = {
        "job": "train-1-1-aa",
        "directory": "/runs/1",
        "cluster": "head:8265",
        "devices": 4,
        "cpus": 1,
        "gpus": False,
        "units": 4,
        "first_seq": 0,
        "versions": {},
        "lease_seconds": 60.0,
        "return_seconds": 60.0,
    }
    return Order(**values | given)


def node(name: str, *, cpus: float = 0, gpus: int = 0, alive: bool = True) -> Node:
    return Node(name, name, name, cpus, gpus, "H200" if gpus else "", 64.0, alive, False)


def test_an_order_arrives_as_it_was_sent():
    sent = order(session="runs/1/2-ab", sealed="x", units=0)
    assert Order.from_json(sent.to_json()) == sent
    again = sent.again("Node 10.0.0.3 was lost.", 12.5)
    assert (again.generation, again.lost, again.elapsed) == (2, "Node 10.0.0.3 was lost.", 12.5)


@pytest.mark.parametrize(
    ("available", "units", "count"),
    [(9, 4, 4), (4, 4, 4), (3, 4, 2), (1, 4, 1), (3, 12, 3), (0, 4, 0), (3, 0, 0), (4, 0, 4)],
)
def test_fewer_devices_keep_the_rows_of_a_step(available, units, count):
    assert order(units=units).fewer(available) == count


def test_devices_of_processors_are_alike_and_of_gpus_one_each():
    nodes = [node("a", cpus=4), node("b", cpus=9), node("head"), node("gone", cpus=2, alive=False)]
    assert cpus_a_device(nodes) == 4
    found = devices_of(nodes, 0)
    assert [(device.node_id, device.index, device.threads) for device in found] == [
        ("a", 0, 4),
        ("b", 0, 4),
        ("b", 1, 4),
    ]
    assert len(devices_of(nodes, 3)) == 4
    assert len({device.identity for device in devices_of(nodes, 3)}) == 4
    nodes.append(node("c", cpus=8, gpus=2))
    assert [(device.node_id, device.kind) for device in devices_of(nodes, 0)] == [
        ("c", "cuda"),
        ("c", "cuda"),
    ]
    assert devices_of([node("head")], 0) == []


def test_a_lease_is_over_where_its_number_stays(tmp_path):
    watch = LeaseWatch("mine", 0.2)
    assert lease_read(tmp_path) is None
    watch.see(None)
    assert not watch.is_over
    lease_write(tmp_path, Lease("mine", 5, time.time()))
    watch.see(lease_read(tmp_path))
    changed = watch.changed
    watch.see(lease_read(tmp_path))
    watch.see(Lease("another attempt's", 6, time.time()))
    assert watch.changed == changed
    watch.changed -= 1
    assert watch.is_over
    watch.see(Lease("mine", 6, 0.0))
    assert not watch.is_over
    (tmp_path / "cluster" / "lease.json").write_text("{")
    assert lease_read(tmp_path) is None


def test_secrets_open_with_the_same_token_alone(monkeypatch):
    given = {"DEEPEXTENSION_JUDGE_KEY": "k-1", "https_proxy": "http://u:p@proxy", "HOME": "/root"}
    found = secrets.secrets_of(given)
    assert found == {"DEEPEXTENSION_JUDGE_KEY": "k-1", "https_proxy": "http://u:p@proxy"}
    sealed = secrets.seal(found, "token")
    assert "k-1" not in sealed
    monkeypatch.setenv("RAY_AUTH_TOKEN", "token")
    assert secrets.unseal(sealed) == found
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    with pytest.raises(TrainError, match="another token"):
        secrets.unseal(sealed)
    assert secrets.unseal(secrets.seal({}, "token")) == {}


def test_the_token_is_where_ray_looks_for_it(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    assert secrets.token_here() == ""
    (tmp_path / "token").write_text("t-1\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert secrets.token_here() == "t-1"


def test_other_versions_are_named_both():
    versions_check(versions_here(), "n")
    with pytest.raises(TrainError) as caught:
        versions_check(versions_here() | {"torch": "0.4", "engine": "abc"}, "n (10.0.0.2)")
    assert caught.value.code == "other_version"
    assert caught.value.message.startswith("Node n (10.0.0.2) has engine ")
    assert caught.value.message.endswith("this platform has engine abc, torch 0.4.")


def test_the_source_is_packed_alike_each_time():
    name, content = package()
    assert package() == (name, content)
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert "engine/cluster/driver.py" in names
    assert "engine/schema/__init__.py" in names
    assert not [name for name in names if "__pycache__" in name]


def test_the_client_hears_whole_lines(capsys):
    log_write(say="Waiting.", phase="waiting")
    log_write(ending={"code": "x"})
    log = capsys.readouterr().out
    assert [*log_entries(f"noise\n{log}@train {{\n@train [")] == [
        {"say": "Waiting.", "phase": "waiting"},
        {"ending": {"code": "x"}},
    ]
    assert [*log_entries(log[:-3])] == [{"say": "Waiting.", "phase": "waiting"}]


def failed(rank: int, *, lost: bool = False) -> RankFailed:
    failure = Failure("disk_full", "The disk is full.", "Free some space.")
    return RankFailed.of(Report(failure, rank, "n", lost, "the end"))


class Wrapped(Exception):
    """As Ray wraps what a worker raises."""

    def __init__(self, inner: Exception) -> None:
        super().__init__("wrapped")
        self._base_exc = inner


def test_a_rank_s_own_failure_is_the_cause(monkeypatch):
    monkeypatch.setattr("engine.cluster.driver.nodes_alive", lambda: {"a": "10.0.0.2"})
    assert report_in(Wrapped(failed(1))) == failed(1).report()
    assert report_in(ValueError("x")) is None
    before = {"a": "10.0.0.2", "b": "10.0.0.3"}

    both = {0: Wrapped(failed(0, lost=True)), 1: Wrapped(failed(1))}
    cause = cause_of(SimpleNamespace(worker_failures=both), before, 2)
    assert isinstance(cause, Failed)
    assert cause.report.rank == 1

    dead = {0: Wrapped(failed(0, lost=True)), 1: RuntimeError("The actor died\n\tip: 10.0.0.3\n")}
    cause = cause_of(SimpleNamespace(worker_failures=dead), before, 2)
    assert isinstance(cause, Lost)
    assert cause.reason == "Node 10.0.0.3 of the Ray cluster was lost."

    monkeypatch.setattr("engine.cluster.driver.NOTICE_SECONDS", 0.0)
    cause = cause_of(SimpleNamespace(worker_failures=dead), {"a": "10.0.0.2"}, 2)
    assert cause.reason == "Rank 1 of 2, on node 10.0.0.3, was killed."

    memory = {
        1: RuntimeError(
            "Task was killed due to the node running low on memory.\n\tip: 10.0.0.3\n"
            "how to address the out of memory issue"
        )
    }
    cause = cause_of(SimpleNamespace(worker_failures=memory), before, 2)
    assert isinstance(cause, Failed)
    assert cause.report.failure.code == "out_of_memory"
    assert "10.0.0.3" in cause.report.failure.message


class WorkerGroupStartupTimeoutError(Exception):
    """Named as Ray's."""


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (None, Lost, "lost each other"),
        (WorkerGroupStartupTimeoutError("x"), Lost, "did not start 2 ranks in time"),
        (RuntimeError("x\nDistStoreError: waited 300 s"), Failed, "did not find each other"),
        (RuntimeError("first\nthe last line"), Lost, "could not begin. the last line"),
    ],
)
def test_why_ranks_did_not_begin_is_said(monkeypatch, capsys, failure, kind, words):
    monkeypatch.setattr("engine.cluster.driver.nodes_alive", lambda: {"a": "10.0.0.2"})
    monkeypatch.setattr("engine.cluster.driver.SEARCH_SECONDS", 0.0)
    error = SimpleNamespace(controller_failure=failure)
    cause = cause_of(error, {"a": "10.0.0.2"}, 2)
    assert isinstance(cause, kind)
    said = cause.report.failure.message if isinstance(cause, Failed) else cause.reason
    assert words in said
    # The whole error is in the job's log.
    assert failure is None or str(failure) in capsys.readouterr().err


def client_of(directory: Path, **settings) -> Client:
    prepare(directory, directory, toy_rows(4))
    job = job_read(directory, EventWriter(directory))
    return Client(job, Settings("http://127.0.0.1:1", "", **settings))


@pytest.mark.parametrize(
    ("nodes", "kind", "words"),
    [
        ([], "", "has no device now"),
        ([node("a", cpus=4)], "cuda", "has no GPU now"),
        ([node("a", cpus=4)], "cpu", ""),
        ([node("a", cpus=4), node("b", cpus=4, gpus=1)], "cuda", ""),
    ],
)
def test_nodes_that_come_back_after_the_head_are_waited_for(
    tmp_path, monkeypatch, nodes, kind, words
):
    state = SimpleNamespace(devices=devices_of(nodes, 0), alive=nodes)
    monkeypatch.setattr("engine.cluster.client.cluster_state", lambda *args, **more: state)
    monkeypatch.setattr("engine.cluster.client.ARRIVING_SECONDS", 0.0)
    client = client_of(tmp_path / "run", kind=kind)
    if not words:
        assert client._await_cluster() is state
        return

    with pytest.raises(ClusterAway, match=words):
        client._await_cluster()


@pytest.mark.parametrize("is_told", [False, True])
def test_a_cluster_that_goes_away_after_the_last_event_costs_nothing(
    tmp_path, monkeypatch, capsys, is_told
):
    client = client_of(tmp_path / "run")
    monkeypatch.setattr("engine.cluster.client.AWAY_SECONDS", 0.0)
    events = EventWriter(tmp_path / "run")
    events.write("metrics", step=1, epoch=1.0, split="train", values={"loss": 1.0})
    if not is_told:
        with pytest.raises(ClusterAway, match="did not come back"):
            client._watch_to_end()
        return

    events.write("finished", step=1)
    assert client._end(client._watch_to_end()) == EXIT_FINISHED


def test_a_failure_is_found_in_what_ray_keeps_of_the_log(tmp_path, capsys):
    failure = {"code": "disk_full", "message": "The disk is full.", "advice": "Free some."}
    log_write(ending=failure, rank=1, log="the end")
    kept = JobState("FAILED", f"Job failed.\n{capsys.readouterr().out}")
    assert client_of(tmp_path / "run")._failure(kept).code == "disk_full"


def test_a_lease_survives_whatever_a_look_at_it_raises(monkeypatch):
    """Without the looks a train would outlive its platform."""
    looks = []

    class Files:
        def lease(self) -> Lease | None:
            looks.append(1)
            if len(looks) < 3:
                raise OSError(errno.EMFILE, "Too many open files")
            return None

    class Exited(Exception):
        pass

    def leave(code: int) -> None:
        raise Exited

    monkeypatch.setattr(driver, "run_files_of", lambda order: Files())
    monkeypatch.setattr(driver, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(driver.os, "_exit", leave)
    with pytest.raises(Exited):
        driver.lease_keep(order(lease_seconds=0.1))
    assert len(looks) >= 3


def test_a_node_whose_disk_is_full_is_named(tmp_path):
    home = SimpleNamespace(directory=tmp_path)
    (tmp_path / "rank-1.log").write_text("before\n" * 1000 + "what it wrote last")
    error = OSError(errno.ENOSPC, "No space left on device")
    report = report_of(error, Ranks(2, 1), "south (10.0.0.2)", home)
    assert report.failure.code == "disk_full"
    assert report.failure.message == "On node south (10.0.0.2): The disk is full."
    assert report.log.endswith("what it wrote last")
    assert len(report.log) < 5000
    assert not report.lost
    lost = report_of(RuntimeError("Connection closed by peer"), Ranks(2, 1), "n", None)
    assert lost.lost


def test_a_checkpoint_that_was_pruned_meanwhile_is_replaced_by_a_newer_one(tmp_path, capsys):
    """An earlier attempt trained on after its client was killed."""
    directory = tmp_path / "run"
    folders = {step: directory / "checkpoints" / f"checkpoint-{step}" for step in (10, 20, 30)}

    def replaced() -> str:
        prepare(directory, tmp_path, toy_rows(4), resume_from=str(folders[20]))
        job = job_read(directory, EventWriter(directory))
        return Client(job, Settings("http://127.0.0.1:1", ""))._resume_from()

    assert replaced() == ""
    for step in (10, 30):
        folders[step].mkdir(parents=True)
        (folders[step] / "state").write_text("x")
    checkpoint_seal(folders[10])
    assert replaced() == ""
    checkpoint_seal(folders[30])
    assert replaced() == "checkpoints/checkpoint-30"
    folders[20].mkdir()
    (folders[20] / "state").write_text("x")
    checkpoint_seal(folders[20])
    assert replaced() == ""


def test_a_node_that_was_cut_off_writes_no_event(tmp_path):
    (tmp_path / "cluster").mkdir()
    mine = SharedFolder(order(directory=str(tmp_path)))
    mine.begin()
    events = OwnEvents.resume(tmp_path)
    events.is_mine = mine.is_mine
    events.write("phase", name="training")
    SharedFolder(mine.order.again("lost", 1.0)).begin()
    with pytest.raises(Overtaken) as caught:
        events.write("finished", step=4)
    assert [event["type"] for event in all_events(tmp_path)] == ["phase"]
    assert report_of(caught.value, Ranks(2, 0), "n", None).lost


def test_ranks_go_on_from_what_this_attempt_has_saved(tmp_path):
    directory = tmp_path / "run"
    prepare(directory, tmp_path, toy_rows(4), devices=4, resume_from="start-20")
    events = EventWriter(directory)
    for step in (10, 20, 40):
        events.write("checkpoint", step=step)
    first_seq = events.seq
    for step in (10, 20, 30, 40, 50):
        folder = directory / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "state").write_text("x")
        checkpoint_seal(folder)
    (directory / "checkpoints" / "checkpoint-60").mkdir()

    sent = order(directory=str(directory), first_seq=first_seq)
    first = resumed_spec(sent, Ranks(), SharedFolder(sent))
    assert Path(first.resume_from or "").name == "start-20"
    assert first.attempt == 1
    # The newest are of an attempt that this one was not to go on from.
    again = sent.again("Node 10.0.0.3 was lost.", 1.0)
    second = resumed_spec(again, Ranks(), SharedFolder(again))
    assert Path(second.resume_from or "").name == "start-20"
    assert second.attempt == 2
    assert second.parameters["devices"] == 1
    assert second.parameters["gradient_accumulation_steps"] == 4

    events.write("checkpoint", step=30)
    third = resumed_spec(again, Ranks(), SharedFolder(again))
    assert Path(third.resume_from or "").name == "checkpoint-30"
    assert not (directory / "checkpoints" / "checkpoint-60").exists()


SENT: list[int] = []


@contextmanager
def answering(status: int, body: bytes, pause: float = 0.0) -> Iterator[str]:
    """A server of something else, which sends a byte now and then, and keeps in SENT which."""
    SENT.clear()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for byte in body:
                try:
                    self.wfile.write(bytes([byte]))
                except OSError:
                    return
                SENT.append(byte)
                if pause:
                    time.sleep(pause)

        def log_message(self, *arguments: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>Welcome</html>", "is no Ray cluster"),
        (200, b"[1, 2]", "does not answer as a Ray cluster does"),
        (401, b"Unauthorized", "asks for a token"),
        (503, b"busy", "cannot answer (HTTP 503)"),
        (404, b"no such page", "does not answer as a Ray cluster does"),
    ],
)
def test_what_is_no_cluster_is_told(status, body, words):
    with answering(status, body) as address, pytest.raises(ClusterAway) as caught:
        cluster_state(address)
    assert words in caught.value.message
    assert address in caught.value.message


def test_an_answer_that_never_ends_is_given_up():
    with answering(200, b" " * 2000, pause=0.02) as address, pytest.raises(ClusterAway) as caught:
        RayApi(address, timeout=0.3).get("/api/version")
    assert "no answer in time" in caught.value.message
    # Who asked has left long before the end.
    assert len(SENT) < 1000


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:1", "connection refused"),
        ("127.0.0.1:8265", "its address is not one"),
        ("http://no-such-host.invalid", "its name is not known"),
    ],
)
def test_a_cluster_that_is_away_is_told(address, words):
    with pytest.raises(ClusterAway) as caught:
        cluster_state(address, "token", 2.0)
    assert words in caught.value.message

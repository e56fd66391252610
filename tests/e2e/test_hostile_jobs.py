"""Whoever can write to Redis cannot have a worker call what they like."""

from __future__ import annotations

import time

import psutil
import pytest
from redis import Redis
from rq import Callback, Queue, Repeat
from rq.serializers import JSONSerializer, PickleSerializer

from tests.e2e.hostile import MARK
from tests.live import Platform

HOSTILE = "tests.e2e.hostile.leave_mark"
OURS = "training.jobs.run_train"


@pytest.fixture
def redis(platform: Platform) -> Redis:
    return Redis(unix_socket_path=str(platform.home / "redis.sock"))


HOSTILE_JOBS = [
    ("function", HOSTILE, {}, "failed"),
    ("library", "os.mkdir", {"args": ["{mark}"]}, "failed"),
    ("builtin", "eval", {"args": ["open('{mark}', 'w')"]}, "failed"),
    ("success", OURS, {"on_success": Callback(HOSTILE)}, "finished"),
    (
        "failure",
        HOSTILE,
        {"on_failure": Callback(HOSTILE), "on_stopped": Callback(HOSTILE)},
        "failed",
    ),
    ("repeat", OURS, {"repeat": Repeat(3, 0)}, "finished"),
]


def outcome(queue: Queue, job_id: str) -> str:
    """ "failed", "finished", or "gone" where nothing is left of the job."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        job = queue.fetch_job(job_id)
        if job is None:
            return "gone"
        if (status := job.get_status().value) in ("failed", "finished"):
            return status
        time.sleep(0.1)
    raise AssertionError(f"{job_id} still waits")


@pytest.fixture(scope="module")
def outcomes(platform: Platform) -> dict[str, str]:
    """How each hostile job ended. The worker lives on: the last of them is ours."""
    redis = Redis(unix_socket_path=str(platform.home / "redis.sock"))
    workers = {process.pid for process in train_workers(platform)}
    queue = Queue("trains", connection=redis, serializer=JSONSerializer)
    for name, function, options, _ in HOSTILE_JOBS:
        arguments = [text.format(mark=platform.home / MARK) for text in options.get("args", [])]
        options = options | {"args": arguments}
        queue.enqueue_call(
            function, job_id=f"hostile-{name}", result_ttl=600, timeout=-1, **options
        )
    Queue("trains", connection=redis, serializer=PickleSerializer).enqueue_call(
        HOSTILE, job_id="hostile-pickle", timeout=-1
    )
    for name, fields in {"timeout": {"timeout": "soon"}, "date": {"created_at": b"\xff"}}.items():
        redis.hset(f"rq:job:hostile-{name}", mapping={"data": b"[]", "origin": "trains"} | fields)
        redis.rpush("rq:queue:trains", f"hostile-{name}")

    queue.enqueue_call(OURS, job_id="behind", result_ttl=600, timeout=-1)

    assert outcome(queue, "behind") == "finished"
    found = {name: outcome(queue, f"hostile-{name}") for name, *_ in HOSTILE_JOBS}
    found["pickle"] = outcome(queue, "hostile-pickle")
    found["failed ids"] = " ".join(queue.failed_job_registry.get_job_ids())
    assert {process.pid for process in train_workers(platform)} == workers
    return found


def train_workers(platform: Platform) -> list[psutil.Process]:
    """The workers themselves, without what they fork for a job."""
    found = platform.processes("manage.py", "train_worker")
    pids = {process.pid for process in found}
    return [process for process in found if process.ppid() not in pids]


@pytest.mark.parametrize(("name", "function", "options", "wanted"), HOSTILE_JOBS)
def test_a_worker_refuses_what_is_not_ours(platform, outcomes, name, function, options, wanted):
    assert outcomes[name] == wanted
    assert not (platform.home / MARK).exists()
    if wanted == "failed":
        assert f"hostile-{name}" in outcomes["failed ids"].split()
        logs = "".join(
            path.read_text() for path in (platform.home / "logs").glob("train_worker*.log")
        )
        assert f"Refused job hostile-{name}: workers do not call '{function}'" in logs


def test_a_pickle_is_not_opened(platform, outcomes):
    assert outcomes["pickle"] in ("failed", "gone")
    assert not (platform.home / MARK).exists()


@pytest.mark.usefixtures("outcomes")
@pytest.mark.parametrize(
    "path",
    [
        "",
        "queues/0/",
        "queues/99/",
        f"queues/{'9' * 30}/",
        "queues/0/none/",
        "queues/0/hostile-function/",
        "queues/0/hostile-pickle/",
        "queues/0/hostile-timeout/",
        "queues/0/%00/",
        "queues/0/%F0%9F%92%A9/",
        f"queues/0/{'a' * 3000}/",
        "queues/0/a:b/",
        "queues/0/hostile-function/results/none/",
        "queues/0/failed/?page=x",
        "queues/0/finished/?page=-1",
        "queues/0/actions/",
        "workers/",
        "workers/0/none/",
        "scheduler-jobs/0/",
        "stats.json",
        "queues/0/none/requeue/",
        "queues/0/none/delete/",
        "queues/0/none/enqueue/",
        "queues/0/none/stop/",
        "queues/0/hostile-timeout/delete/",
        "queues/99/failed/",
        "queues/99/none/",
        "cron-schedulers/0/none/",
    ],
)
def test_the_pages_of_the_queue_answer_odd_ids(platform, path):
    session = platform.session("olga")
    for method in (session.get, session.post):
        answer = method(f"{platform.url}/admin/queue/{path}", timeout=60, allow_redirects=False)
        assert answer.status_code < 500, (method, answer.text[:500])


@pytest.mark.parametrize(
    "command",
    [
        "CONFIG GET dir",
        "MODULE LIST",
        "FLUSHALL",
        "SHUTDOWN NOSAVE",
        "DEBUG SLEEP 0",
        "REPLICAOF NO ONE",
        "ACL LIST",
    ],
)
def test_the_queue_server_obeys_nobody_who_would_change_it(redis, command):
    with pytest.raises(Exception, match=r"no permissions|not allowed"):
        redis.execute_command(*command.split())

"""Whoever can write to Redis cannot have a worker call what they like."""

from __future__ import annotations

import time

import pytest
from redis import Redis
from rq import Callback, Queue, Repeat
from rq.serializers import JSONSerializer, PickleSerializer

from tests.e2e.hostile import MARK
from tests.live import Platform

HOSTILE = "tests.e2e.hostile.leave_mark"
OURS = "training.jobs.send_notices"


@pytest.fixture
def redis(platform: Platform) -> Redis:
    return Redis(unix_socket_path=str(platform.home / "redis.sock"))


def outcome(queue: Queue, job_id: str) -> str:
    """ "failed", "finished", or "gone" where nothing is left of the job."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        job = queue.fetch_job(job_id)
        if job is None:
            return "gone"
        if (status := job.get_status().value) in ("failed", "finished"):
            return status
        time.sleep(0.1)
    raise AssertionError(f"{job_id} still waits")


def works_still(platform: Platform, name: str) -> bool:
    """The worker that met the job does its next one."""
    return bool(platform.upload(f"{name}.csv", b"prompt,completion\nWhy?,Because.\n")["status"] == "ready")


@pytest.mark.parametrize(
    ("name", "function", "options", "wanted"),
    [
        ("function", HOSTILE, {}, "failed"),
        ("library", "os.mkdir", {"args": ["{mark}"]}, "failed"),
        ("builtin", "eval", {"args": ["open('{mark}', 'w')"]}, "failed"),
        ("success", OURS, {"on_success": Callback(HOSTILE)}, "finished"),
        ("failure", HOSTILE, {"on_failure": Callback(HOSTILE), "on_stopped": Callback(HOSTILE)}, "failed"),
        ("repeat", OURS, {"repeat": Repeat(3, 0)}, "finished"),
    ],
)
def test_a_worker_refuses_what_is_not_ours(platform, redis, name, function, options, wanted):
    mark = platform.home / MARK
    queue = Queue("chores", connection=redis, serializer=JSONSerializer)
    options = options | {"args": [text.format(mark=mark) for text in options.get("args", [])]}
    queue.enqueue_call(function, job_id=f"hostile-{name}", result_ttl=600, timeout=-1, **options)

    assert outcome(queue, f"hostile-{name}") == wanted
    assert works_still(platform, name)
    assert not mark.exists()
    if wanted == "failed":
        assert f"hostile-{name}" in queue.failed_job_registry.get_job_ids()
        logs = "".join(path.read_text() for path in (platform.home / "logs").glob("chores_worker*.log"))
        assert f"Refused job hostile-{name}: workers do not call '{function}'" in logs


def test_a_pickle_is_not_opened(platform, redis):
    queue = Queue("chores", connection=redis, serializer=PickleSerializer)
    queue.enqueue_call(HOSTILE, job_id="hostile-pickle", timeout=-1)
    queue.serializer = JSONSerializer
    assert outcome(queue, "hostile-pickle") in ("failed", "gone")
    assert works_still(platform, "pickle")
    assert not (platform.home / MARK).exists()


def test_a_job_that_cannot_be_read_is_skipped(platform, redis):
    workers = {process.pid for process in platform.processes("manage.py", "chores_worker")}
    redis.hset("rq:job:hostile-garbage", mapping={"data": b"[]", "origin": "chores", "timeout": "soon"})
    redis.rpush("rq:queue:chores", "hostile-garbage")
    assert works_still(platform, "garbage")
    assert {process.pid for process in platform.processes("manage.py", "chores_worker")} >= workers


@pytest.mark.parametrize(
    "command",
    ["CONFIG GET dir", "MODULE LIST", "FLUSHALL", "SHUTDOWN NOSAVE", "DEBUG SLEEP 0", "REPLICAOF NO ONE", "ACL LIST"],
)
def test_the_queue_server_obeys_nobody_who_would_change_it(redis, command):
    with pytest.raises(Exception, match=r"no permissions|not allowed"):
        redis.execute_command(*command.split())

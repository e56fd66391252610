"""What a program of a stranger's finds when it looks for the platform's secrets with all that it
can reach."""

import json
from pathlib import Path

import psutil
import pytest

from tests.e2e.test_main_job import toy_rows
from tests.live import CANARIES, CANARY, Platform

pytestmark = pytest.mark.long

# It says what it found in the train's log. The pattern does not match itself.
LOOKS = '''
import glob, json, os, re, sys

CANARY = re.compile(rb"canary-[a-z-]+-[0-9]{6}")


def memory():
    """Every byte of its own process that can be read."""
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as mem:
        for line in maps:
            places, rights, *_, = line.split()
            start, end = (int(part, 16) for part in places.split("-"))
            if rights.startswith("rw") and end - start < 1 << 30:
                try:
                    mem.seek(start)
                    yield mem.read(end - start)
                except (OSError, ValueError, OverflowError):
                    continue


def places():
    yield "environment", repr(os.environ).encode()
    for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/task/*/environ"):
        try:
            yield path, open(path, "rb").read()
        except OSError:
            continue
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            yield path, open(path, "rb").read()
        except OSError:
            continue
    for block in memory():
        yield "memory", block


def parents():
    """Whether the memory of any process that this one comes from can be opened."""
    pid, opened = os.getppid(), []
    while pid > 1:
        try:
            open(f"/proc/{pid}/mem", "rb").close()
            opened.append(pid)
        except OSError:
            pass
        pid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
    return opened


def reward(prompts, completions, references, rows, **parameters):
    found = sorted({place + ": " + hit.decode() for place, text in places() for hit in CANARY.findall(text)})
    platform = sorted(name for name in sys.modules if name.partition(".")[0] in ("django", "rq", "deepextension"))
    lines = {pid: open(f"/proc/{pid}/cmdline", "rb").read() for pid in parents()}
    outside = [pid for pid, line in lines.items() if b"engine.process.forkserver" not in line]
    try:
        from django.conf import settings
        key = settings.SECRET_KEY
    except Exception as error:
        key = type(error).__name__
    answer = {"found": found, "platform": platform, "outside": outside, "key": key}
    print("FOUND " + json.dumps(answer), flush=True)
    return [1.0 for _ in completions]
'''


def test_no_process_shows_a_secret_in_its_environment(platform: Platform):
    """Not even to root, whom the kernel refuses nothing."""
    seen = {}
    for process in platform.processes():
        shown = Path(f"/proc/{process.pid}/environ").read_bytes()
        seen[" ".join(process.cmdline()) or process.name()] = CANARY.findall(shown)
    commands = {word for line in seen for word in line.split()}
    assert {
        "web",
        "train_worker",
        "jobs_worker",
        "watch",
        "engine.process.forkserver",
    } <= commands
    assert {line: found for line, found in seen.items() if found} == {}


def test_a_persons_own_reward_finds_no_secret_in_environments_memories_or_settings(
    platform: Platform,
):
    platform.reward_add("looks", LOOKS)
    dataset = platform.kept("toys-20.jsonl", toy_rows(20))

    run = platform.api(
        "POST",
        "trains/",
        json={
            "name": "looks",
            "method": "grpo",
            "base_model": "tiny",
            "dataset": dataset["id"],
            "parameters": {
                "rewards": [{"function": "custom:looks"}],
                "max_steps": 1,
                "num_generations": 2,
                "max_completion_tokens": 4,
                "sample_prompts": 0,
                "evaluation_split": 0,
            },
        },
    )
    assert run.status_code == 201, run.text
    ended = platform.ended(run.json())
    log = (platform.home / "runs" / str(ended["id"]) / "train.log").read_text()
    assert ended["status"] == "finished", log

    looked = [
        json.loads(line.removeprefix("FOUND "))
        for line in log.splitlines()
        if line.startswith("FOUND ")
    ]
    assert looked
    for answer in looked:
        assert answer == {"found": [], "platform": [], "outside": [], "key": "ImproperlyConfigured"}


def test_the_canaries_are_where_they_belong(platform: Platform):
    """Or the tests above would find nothing because there is nothing."""
    given = platform.env
    assert {name for name in CANARIES if CANARY.search(given[name].encode())} == set(CANARIES)
    assert psutil.pid_exists(platform.train_worker().pid)

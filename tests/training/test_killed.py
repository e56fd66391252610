"""A train that was killed: said with what was measured, and called out of memory only where memory
ran out."""

from __future__ import annotations

import os

import pytest

from core import memory
from core.memory import Death, MemoryWatch
from training.work.outcome import decide

GB = 10**9
ROOMY = Death(
    killed_for_memory=False, peak=2 * GB, used=4 * GB, total=16 * GB, was_nearly_full=False
)


@pytest.mark.parametrize(
    ("death", "code", "says"),
    [
        (ROOMY, "killed", "4.0 GB of 16.0 GB of memory were in use; the train took 2.0 GB at most"),
        (
            Death(True, 9 * GB, 15 * GB, 16 * GB, False),
            "out_of_memory",
            "Memory ran out, and the system ended",
        ),
        (
            Death(False, 9 * GB, 16 * GB, 16 * GB, True),
            "out_of_memory",
            "while memory was nearly full",
        ),
        (Death(False, 0, 0, 0, False), "killed", "signal 9"),
        (None, "killed", "signal 9"),
    ],
)
def test_a_kill_is_reported_with_what_was_measured(make_train, death, code, says):
    outcome = decide(make_train(status="running"), -9, death=death)

    assert outcome.values["error_code"] == code
    assert says in outcome.values["error"]
    assert "most likely" not in outcome.values["error"] + outcome.values["error_advice"]
    if death == ROOMY:
        assert "Memory had not run out" in outcome.values["error_advice"]


@pytest.mark.parametrize(
    ("death", "code"),
    [
        (ROOMY, "rank_killed"),
        (None, "rank_killed"),
        (Death(True, 9 * GB, 15 * GB, 16 * GB, False), "out_of_memory"),
        (Death(False, 9 * GB, 16 * GB, 16 * GB, True), "out_of_memory"),
    ],
)
def test_a_rank_is_called_out_of_memory_only_where_memory_ran_out(make_train, death, code):
    said = {"type": "failed", "code": "rank_killed", "message": "Rank 1 of 2 was killed."}
    run = make_train(status="running", outcome=said, parameters={"devices": 2})
    outcome = decide(run, 1, death=death)
    assert outcome.values["error_code"] == code
    # Only the largest process was measured.
    assert "at most" not in outcome.values["error"]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine's files: 16 GB of which 4 are free, and counters that a test can set."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "7").mkdir(parents=True)
    groups.mkdir()
    monkeypatch.setattr(memory, "PROC", proc)
    monkeypatch.setattr(memory, "CGROUPS", groups)
    (proc / "meminfo").write_text("MemTotal:  16000000 kB\nMemAvailable: 4000000 kB\n")
    (proc / "vmstat").write_text("pgfault 10\noom_kill 3\n")
    (proc / "7" / "cgroup").write_text("0::/work\n")
    return tmp_path


@pytest.fixture
def clock(monkeypatch):
    """[seconds], which a test sets."""
    seconds = [100.0]
    monkeypatch.setattr(memory.time, "monotonic", lambda: seconds[0])
    return seconds


def test_the_machines_counter_proves_a_kill_for_memory(machine, clock):
    watch = MemoryWatch(7)
    assert not watch.death(0).killed_for_memory

    (machine / "proc" / "vmstat").write_text("oom_kill 4\n")
    assert watch.death(0).killed_for_memory


def test_a_look_between_the_kill_and_the_word_of_it_hides_nothing(machine, clock):
    watch = MemoryWatch(7)
    clock[0] += 60
    watch.look()
    (machine / "proc" / "vmstat").write_text("oom_kill 4\n")
    clock[0] += 1
    watch.look()
    assert watch.death(0).killed_for_memory

    clock[0] += memory.WINDOW_SECONDS
    watch.look()
    assert not watch.death(0).killed_for_memory, "another one's, long ago"


def test_the_group_of_a_process_that_was_killed_and_not_waited_for_still_counts(machine, clock):
    """Until somebody waits for it, it seems to be in the root group."""
    group = machine / "cgroup" / "work"
    group.mkdir()
    (group / "memory.events").write_text("oom_kill 1\n")
    (machine / "cgroup" / "memory.events").write_text("oom_kill 1\n")
    watch = MemoryWatch(7)

    (group / "memory.events").write_text("oom_kill 2\n")
    (machine / "proc" / "7" / "cgroup").write_text("0::/\n")
    clock[0] += 1
    watch.look()
    (machine / "proc" / "7" / "cgroup").unlink()
    assert watch.death(1).killed_for_memory


def test_the_group_of_a_process_that_has_ended_still_counts(machine, clock):
    events = machine / "cgroup" / "work" / "memory.events"
    events.parent.mkdir()
    events.write_text("oom_kill 0\n")
    watch = MemoryWatch(7)
    events.write_text("oom_kill 1\n")
    (machine / "proc" / "7" / "cgroup").unlink()
    (machine / "proc" / "7").rmdir()
    assert watch.death(0).killed_for_memory


@pytest.mark.parametrize(
    ("line", "files"),
    [
        (
            "0::/work\n",
            {
                "work/memory.events": "low 0\noom_kill {kills}\n",
                "work/memory.max": "8000000000",
                "work/memory.current": "7900000000",
            },
        ),
        (
            "4:memory:/work\n",
            {
                "memory/work/memory.oom_control": "under_oom 0\noom_kill {kills}\n",
                "memory/work/memory.limit_in_bytes": "8000000000",
                "memory/work/memory.usage_in_bytes": "7900000000",
            },
        ),
    ],
)
def test_the_control_groups_counter_and_limit_count(machine, line, files):
    (machine / "proc" / "7" / "cgroup").write_text(line)

    def write(kills):
        for name, text in files.items():
            path = machine / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.format(kills=kills))

    write(0)
    watch = MemoryWatch(7)
    assert (watch.last.used, watch.last.total) == (7_900_000_000, 8_000_000_000)
    assert watch.last.is_nearly_full
    write(1)
    assert watch.death(5).killed_for_memory


def test_a_machine_that_says_nothing_proves_nothing(machine):
    for path in (machine / "proc").iterdir():
        if path.is_file():
            path.unlink()
    death = MemoryWatch(8).death(0)
    assert (death.killed_for_memory, death.total) == (False, 0)


def test_this_machine_can_be_measured():
    found = MemoryWatch(os.getpid()).last
    assert 0 < found.used < found.total

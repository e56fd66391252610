"""Background work: who is next, what is ended, and what begins again."""

import errno
import json
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from core.errors import UserError
from core.processes import process_mark
from core.store import jobs_folder
from jobs import kinds, services
from jobs import worker as worker_module
from jobs.adding import job_add
from jobs.devices.lost_workers import MARK, lost_mark_remove, worker_declare_lost
from jobs.durations import run_seconds
from jobs.kinds import DELIVERY_PAUSES, SHORT_PAUSES, Kind
from jobs.models import Job, JobQuerySet
from jobs.queue import in_order
from jobs.services import (
    job_cancel,
    job_claim,
    job_give_back,
    job_put_off,
    job_stop,
    jobs_ahead,
    jobs_reconcile,
)
from jobs.worker import JobsWorker, _error_in_words

ALICE, BOB, CAROL = "first", "second", "third"
QUICK, NORMAL, LONG, _ = Job.Lane.values

endings: list[tuple] = []


def do_nothing(*arguments):
    os.write(1, b"nothing was done")


def never_end(*arguments):
    while True:
        time.sleep(1)


def break_off(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(*arguments):
    raise ConnectionRefusedError("the mail server is away")


def compute_for_ever(*arguments):
    os.kill(os.getpid(), signal.SIGXCPU)


def note_ending(*arguments, reason, limit_seconds):
    endings.append((*arguments, reason))


def print_where_no_room_is(*arguments):
    """As on a full disk, which refuses a log only when it is written through."""
    sys.stdout = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    sys.stdout.write("nothing was done")


def print_for_ever(*arguments):
    while True:
        os.write(1, b"again and again\n" * 100)
        time.sleep(0.01)


def refuse(*arguments):
    """As work whose kind has recorded what went wrong."""
    return "no such repository"


@pytest.fixture(autouse=True)
def kinds_of_jobs(monkeypatch, django_user_model, db):
    """Kinds whose work is that of a function above, and three people."""
    endings.clear()
    functions = (
        do_nothing,
        never_end,
        break_off,
        fail,
        compute_for_ever,
        refuse,
        print_for_ever,
        print_where_no_room_is,
    )
    known = {
        function.__name__: Kind(
            function.__name__,
            function.__name__.capitalize(),
            run=f"{__name__}.{function.__name__}",
            ended=f"{__name__}.note_ending",
        )
        for function in functions
    }
    monkeypatch.setattr(kinds, "_kinds", known)
    for name in (ALICE, BOB, CAROL):
        django_user_model.objects.get_or_create(username=name)


def add(key, person=ALICE, *, kind="do_nothing", seconds=1.0, limit=None, **more):
    job_add(
        kind,
        key,
        key=key,
        name=f"about {key}",
        owner_id=get_user_model().objects.get(username=person).pk,
        expected_seconds=seconds,
        limit_seconds=limit,
        **more,
    )


def claim(lane=LONG):
    return job_claim(
        lane, worker="test", host=socket.gethostname(), process=process_mark(os.getpid())
    )


def all_in_order(lane=LONG):
    found = []
    while (job := claim(lane)) is not None:
        found.append(job.key)
        job.delete()
    return found


def test_people_take_turns():
    for number in range(50):
        add(f"a{number}", ALICE)
    add("b0", BOB)
    add("b1", BOB)
    add("c0", CAROL)
    order = all_in_order()
    assert set(order[:3]) == {"a0", "b0", "c0"}
    assert set(order[3:5]) == {"a1", "b1"}


def test_who_comes_late_neither_waits_for_all_nor_catches_up():
    for number in range(10):
        add(f"a{number}", ALICE)
    for _ in range(5):
        claim().delete()
    for number in range(10):
        add(f"b{number}", BOB)
    order = all_in_order()
    assert order[:6] == ["a5", "b0", "a6", "b1", "a7", "b2"]


def test_what_takes_seconds_does_not_wait_behind_what_takes_hours():
    add("import", ALICE, seconds=7200)
    add("minutes", ALICE, seconds=300)
    add("check", BOB, seconds=1)
    assert claim(QUICK).key == "check"
    assert claim(QUICK) is None
    assert claim(NORMAL).key == "minutes"
    assert claim(LONG).key == "import"


def test_a_worker_helps_with_quicker_work_once_its_own_lane_is_empty():
    add("check", seconds=1)
    assert claim(LONG).key == "check"


def test_the_same_work_is_not_added_twice():
    add("a")
    add("a")
    assert Job.objects.count() == 1
    claim()
    add("a")
    assert Job.objects.count() == 1


def test_one_that_waits_says_how_many_go_first():
    add("a", ALICE)
    add("b", ALICE)
    assert (jobs_ahead("a"), jobs_ahead("b"), jobs_ahead("unknown")) == (0, 1, None)


def test_one_that_waits_is_cancelled_at_once():
    add("a")
    assert job_cancel("a")
    assert endings == [("a", "cancelled")]
    assert Job.objects.get().status == "stopped"
    assert not job_cancel("a")


def test_nobody_works_longer_than_the_operator_allows(settings):
    settings.BACKGROUND_LIMIT_MINUTES = 2
    add("a", limit=10_000)
    add("b")
    add("c", limit=30)
    assert [job.limit_seconds for job in Job.objects.order_by("key")] == [120, 120, 30]


@pytest.mark.parametrize("on_another_machine", [False, True])
def test_what_a_lost_worker_was_at_begins_again(on_another_machine):
    add("a")
    job = claim()
    values = {"process": "1:1"}
    if on_another_machine:
        long_ago = timezone.now() - timedelta(hours=1)
        values |= {"host": "elsewhere", "heartbeat_at": long_ago}
    Job.objects.update(**values)

    jobs_reconcile()
    assert claim().pk == job.pk


@pytest.fixture
def silent(settings):
    """A job of a worker on another machine, from which nothing was heard for longer than the
    limit."""
    settings.HEARTBEAT_LIMIT_SECONDS = 60
    add("a")
    job = claim()
    job.directory.mkdir(parents=True, exist_ok=True)
    long_ago = timezone.now() - timedelta(seconds=61)
    Job.objects.update(host="elsewhere", heartbeat_at=long_ago)
    yield job
    lost_mark_remove(job)


def mark_aged(job, seconds):
    path = job.directory / MARK
    path.write_text(json.dumps(json.loads(path.read_text()) | {"time": time.time() - seconds}))


def test_a_worker_elsewhere_is_marked_first_and_lost_when_its_time_is_over(silent):
    jobs_reconcile()
    assert Job.objects.get().status == "running"
    mark_aged(silent, 9)
    jobs_reconcile()
    assert Job.objects.get().status == "running"
    mark_aged(silent, 10)
    jobs_reconcile()
    assert (Job.objects.get().status, Job.objects.get().resumes) == ("queued", 1)


def test_a_folder_that_cannot_be_written_holds_up_no_other_job(silent, settings, monkeypatch):
    """As on a full disk, where old jobs must be forgotten above all."""
    add("b")
    other = claim()
    Job.objects.filter(pk=other.pk).update(process="1:1")
    add("c")
    old = claim()
    long_ago = timezone.now() - timedelta(days=settings.JOBS_KEPT_DAYS + 1)
    Job.objects.filter(pk=old.pk).update(status="finished", finished_at=long_ago)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    jobs_reconcile()
    statuses = dict(Job.objects.values_list("key", "status"))
    assert statuses == {silent.key: "running", other.key: "queued"}


def test_a_worker_elsewhere_that_is_heard_again_keeps_its_work(silent):
    """As after minutes without the database, where the watch looks before the worker is heard."""
    jobs_reconcile()
    mark_aged(silent, 10)
    Job.objects.update(heartbeat_at=timezone.now())
    jobs_reconcile()
    assert Job.objects.get().status == "running"
    assert not (silent.directory / MARK).exists()


def test_what_is_worked_on_is_left_alone():
    add("a")
    claim()
    jobs_reconcile()
    assert claim() is None


def test_what_takes_its_worker_down_every_time_is_given_up():
    add("a")
    for _ in range(len(SHORT_PAUSES) + 1):
        job_give_back(claim())
    assert endings == [("a", "broke_off")]
    assert Job.objects.get().status == "failed"
    assert claim() is None


def test_a_restart_of_the_platform_counts_against_nobody():
    add("a")
    for _ in range(3 * (len(SHORT_PAUSES) + 1)):
        job_give_back(claim(), uncounted=True)
    assert claim().resumes == 0


@pytest.fixture
def worker(monkeypatch):
    # The database of a test lives in its connection.
    monkeypatch.setattr(worker_module.connections, "close_all", lambda: None)
    monkeypatch.setattr(worker_module, "HEARTBEAT_SECONDS", 0.01)
    return JobsWorker(QUICK)


def test_work_that_is_done_is_kept_with_its_log(worker, settings):
    add("a")
    assert worker.work_once()
    assert not worker.work_once()
    job = Job.objects.get()
    assert (endings, job.status, job.error) == ([], "finished", "")
    assert job.started_at <= job.finished_at
    assert job.log_path.read_text() == "nothing was done"


def test_work_of_a_kind_that_keeps_nothing_leaves_nothing(worker):
    kinds._kinds["do_nothing"] = replace(kinds._kinds["do_nothing"], keeps=False)
    add("a")
    assert worker.work_once()
    assert not Job.objects.exists()
    assert not list(jobs_folder().glob("*"))


def test_what_its_kind_has_recorded_as_failed_is_not_tried_again(worker):
    add("a", kind="refuse")
    worker.work_once()
    job = Job.objects.get()
    assert (job.status, job.error_code, job.error) == ("failed", "failed", "no such repository")
    assert (endings, job.resumes) == ([], 0)


def test_an_error_that_was_overcome_is_forgotten(worker):
    add("a", kind="fail")
    worker.work_once()
    assert "ConnectionRefusedError" in Job.objects.get().error
    Job.objects.update(kind="do_nothing")
    end_pause()
    worker.work_once()
    assert (Job.objects.get().status, Job.objects.get().error) == ("finished", "")


def test_work_beyond_its_time_is_ended(worker, monkeypatch):
    add("a", kind="never_end")
    Job.objects.update(limit_seconds=0)
    worker.work_once()
    assert endings == [("a", "too_long")]
    assert (Job.objects.get().status, Job.objects.get().error_code) == ("failed", "too_long")


def test_work_beyond_its_processor_time_is_ended(worker):
    add("a", kind="compute_for_ever")
    worker.work_once()
    assert endings == [("a", "too_long")]


def test_work_that_is_cancelled_while_it_runs_is_ended(worker, monkeypatch):
    add("a", kind="never_end")
    heartbeat = worker_module._heartbeat

    def cancelled_meanwhile(job, *more):
        assert job_cancel("a")
        return heartbeat(job, *more)

    monkeypatch.setattr(worker_module, "_heartbeat", cancelled_meanwhile)
    worker.work_once()
    assert endings == [("a", "cancelled")]
    assert Job.objects.get().status == "stopped"


def test_work_whose_subject_was_deleted_is_ended_without_a_word(worker, monkeypatch):
    add("a", kind="never_end")
    heartbeat = worker_module._heartbeat

    def deleted_meanwhile(job, *more):
        services.job_drop("a")
        return heartbeat(job, *more)

    monkeypatch.setattr(worker_module, "_heartbeat", deleted_meanwhile)
    worker.work_once()
    assert endings == []


@pytest.mark.parametrize("begun_elsewhere", [False, True])
def test_a_worker_that_is_cut_off_ends_its_work_once_it_is_declared_lost(
    worker, monkeypatch, settings, begun_elsewhere
):
    settings.HEARTBEAT_LIMIT_SECONDS = 1
    heartbeat = worker_module._heartbeat

    def away(rows, **values):
        raise OperationalError("the network is unreachable")

    def cut_off(job, *more):
        worker_declare_lost(job)
        with monkeypatch.context() as patched:
            patched.setattr(JobQuerySet, "update", away)
            reason = heartbeat(job, *more)
        if reason and begun_elsewhere:
            Job.objects.update(host="elsewhere", attempt=2)
        return reason

    add("a", kind="never_end", limit=3)
    monkeypatch.setattr(worker_module, "_heartbeat", cut_off)
    worker.work_once()
    job = Job.objects.get()
    status = "running" if begun_elsewhere else "queued"
    assert (job.status, job.attempt, job.resumes, job.error) == (status, 2, 0, "")


def test_an_end_is_written_however_long_the_database_is_away(worker, monkeypatch):
    """By nobody else: the worker lives, so that its job is not given back."""
    monkeypatch.setattr(worker_module, "LOOK_SECONDS", 0)
    refused = iter(range(5))
    queue_insert = services.queue_insert

    def away(job, **more):
        # When the job has been taken off, so that this is undone.
        if next(refused, None) is not None:
            raise OperationalError("database or disk is full")
        queue_insert(job, **more)

    add("a", kind="fail")
    monkeypatch.setattr(services, "queue_insert", away)
    worker.work_once()
    job = Job.objects.get()
    assert (job.status, job.attempt, next(refused, None)) == ("queued", 2, None)


def test_a_worker_that_stops_does_not_wait_for_the_database(worker, monkeypatch):
    def away(*arguments, **more):
        worker.is_stopping = True
        raise OperationalError("database is locked")

    add("a")
    monkeypatch.setattr(worker_module, "job_end", away)
    worker.work_once()
    assert Job.objects.get().status == "running"


def test_work_is_done_although_the_disk_takes_no_log(worker):
    add("a", kind="print_where_no_room_is")
    worker.work_once()
    assert Job.objects.get().status == "finished"


def test_work_that_breaks_off_begins_again_and_is_given_up_in_the_end(worker):
    add("a", kind="break_off")
    for _ in SHORT_PAUSES:
        worker.work_once()
        assert Job.objects.get().status == "queued"
        end_pause()
    worker.work_once()
    assert endings == [("a", "broke_off")]
    assert Job.objects.get().error == "Its process was killed, most likely for lack of memory."


def end_pause():
    """As if the pause after a failure were over."""
    Job.objects.update(due_at=timezone.now() - timedelta(seconds=1))


def deliver(kinds):
    kinds["fail"] = replace(kinds["fail"], pauses=DELIVERY_PAUSES)


def test_what_fails_is_tried_again_after_growing_pauses_for_a_day(worker):
    deliver(kinds._kinds)
    add("mail", kind="fail")
    pauses = []
    for _ in DELIVERY_PAUSES:
        assert worker.work_once()
        assert not worker.work_once(), "it is not tried again without a pause"
        pauses.append((Job.objects.get().due_at - timezone.now()).total_seconds())
        end_pause()

    assert pauses == sorted(pauses)
    assert pauses[0] > 50
    assert 23 * 3600 < sum(pauses) < 25 * 3600


def test_what_fails_every_time_is_given_up_and_operators_see_why(worker, client, olga):
    deliver(kinds._kinds)
    add("mail", kind="fail")
    for _ in range(len(DELIVERY_PAUSES) + 1):
        end_pause()
        worker.work_once()
    assert endings == [("mail", "broke_off")]
    assert not worker.work_once()

    client.force_login(olga)
    page = client.get("/admin/jobs/job/").content.decode()
    assert "Failed" in page
    why = "Another server could not be reached (ConnectionRefusedError: the mail server is away)."
    assert why in page


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError({"file": ["Choose a file."]}), "Choose a file."),
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full."),
        (MemoryError(), "It needed more memory than it may use."),
        (TimeoutError(), "Another server could not be reached (TimeoutError)."),
        (
            KeyError("x"),
            "It ended by a fault of the platform (KeyError: 'x'). The log has more.",
        ),
    ],
)
def test_an_error_is_said_in_words(error, words):
    assert _error_in_words(error) == words


def test_what_failed_can_be_added_again_and_is_forgotten_after_a_month(worker):
    add("a", kind="fail")
    now = timezone.now()
    Job.objects.update(status="failed", resumes=3, started_at=now, finished_at=now)
    add("a")
    assert list(Job.objects.values_list("status", "resumes")) == [("queued", 0), ("failed", 3)]

    Job.objects.filter(status="failed").update(finished_at=now - timedelta(days=31))
    jobs_reconcile()
    assert Job.objects.get().status == "queued"


def test_a_pause_ends_when_somebody_asks_again(worker):
    add("a", kind="fail")
    worker.work_once()
    add("a")
    assert claim() is None
    add("a", kind="fail", end_pause=True)
    assert claim().key == "a"


def test_what_waits_after_a_failure_gives_newcomers_no_turns_of_long_ago(worker):
    add("failing", ALICE, kind="fail")
    worker.work_once()
    for number in range(5):
        add(f"b{number}", BOB)
    for _ in range(3):
        claim().delete()
    for number in range(3):
        add(f"c{number}", CAROL)
    assert all_in_order() == ["b3", "c0", "b4", "c1", "c2"]


def test_what_is_slower_than_its_lane_moves_on_to_the_next(worker, monkeypatch):
    monkeypatch.setitem(services.LANE_LIMITS, QUICK, 0)
    add("a", kind="never_end")
    worker.work_once()
    job = Job.objects.get()
    assert (job.lane, job.status, job.resumes) == (NORMAL, "queued", 0)


def test_a_worker_that_stops_gives_its_work_back(worker):
    add("a", kind="never_end")
    worker.is_stopping = True
    worker.work_once()
    job = Job.objects.get()
    assert (job.status, job.resumes, endings) == ("queued", 0, [])


def test_operators_see_background_work_and_end_it(client, olga, alice):
    add("a")
    client.force_login(olga)
    page = "/admin/jobs/job/"
    assert ">about a<" in client.get(page).content.decode()
    chosen = {"action": "stop", "_selected_action": [Job.objects.get().pk]}
    assert client.post(page, chosen).status_code == 302
    assert endings == [("a", "cancelled")]

    client.force_login(alice)
    assert client.get(page).status_code == 302


def stop_in_the_last_moment(monkeypatch):
    """Somebody asks for a stop when the process is gone and its end is not yet written."""
    read_error = worker_module._read_error

    def stopped_meanwhile(failure):
        assert job_cancel("a")
        return read_error(failure)

    monkeypatch.setattr(worker_module, "_read_error", stopped_meanwhile)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("do_nothing", "finished"),
        ("compute_for_ever", "stopped"),
        ("break_off", "stopped"),
        ("refuse", "stopped"),
    ],
)
def test_a_stop_in_the_last_moment_leaves_nothing_open(worker, monkeypatch, kind, status):
    stop_in_the_last_moment(monkeypatch)
    add("a", kind=kind)
    worker.work_once()
    assert Job.objects.get().status == status


@pytest.mark.parametrize("kind", ["do_nothing", "compute_for_ever", "break_off", "refuse"])
def test_a_database_that_fails_while_the_end_is_written_loses_nothing(worker, monkeypatch, kind):
    """Also where it failed after the write, which was then taken back."""
    monkeypatch.setattr(worker_module, "LOOK_SECONDS", 0.01)
    transition = Job.transition
    failures = iter([OperationalError("the disk is full"), InterfaceError("connection lost")])

    def fail_after_the_write(job, to, **values):
        won = transition(job, to, **values)
        if to != "running" and (failure := next(failures, None)):
            raise failure
        return won

    add("a", kind=kind)
    monkeypatch.setattr(Job, "transition", fail_after_the_write)
    worker.work_once()
    expected = {"do_nothing": "finished", "break_off": "queued"}
    assert Job.objects.get().status == expected.get(kind, "failed")


@pytest.mark.parametrize("stopped_meanwhile", [False, True])
def test_a_claim_whose_answer_was_lost_is_given_back(worker, monkeypatch, stopped_meanwhile):
    """The database has stored it, and its worker, which is alive, does not know."""
    transition = Job.transition
    failures = iter([OperationalError("the connection was lost")])

    def fail_after_the_claim(job, to, **values):
        won = transition(job, to, **values)
        if to == "running" and (failure := next(failures, None)):
            raise failure
        return won

    add("a")
    monkeypatch.setattr(Job, "transition", fail_after_the_claim)
    with pytest.raises(OperationalError):
        worker.work_once()
    assert Job.objects.get().status == "running"

    if stopped_meanwhile:
        assert job_cancel("a")
    worker.work_once()
    job = Job.objects.get()
    assert (job.status, job.resumes) == ("stopped" if stopped_meanwhile else "finished", 0)


def test_what_others_work_on_is_not_given_back_by_one_that_is_idle(worker):
    for key, values in {"a": {"host": "elsewhere"}, "b": {"process": "1:1"}}.items():
        add(key)
        claim()
        Job.objects.filter(key=key).update(**values)
    assert not worker.work_once()
    assert set(Job.objects.values_list("status", flat=True)) == {"running"}


def test_a_kind_that_cannot_record_an_end_keeps_no_job_open(worker, monkeypatch):
    kinds._kinds["compute_for_ever"] = replace(
        kinds._kinds["compute_for_ever"], ended=f"{__name__}.fail"
    )
    add("a", kind="compute_for_ever")
    worker.work_once()
    assert Job.objects.get().status == "failed"


def test_a_stop_of_what_has_ended_stops_nothing_else(worker, olga):
    add("a")
    worker.work_once()
    ended = Job.objects.get()
    add("a", BOB)
    assert job_stop(job=ended, by=olga).status == "finished"
    assert Job.objects.exclude(pk=ended.pk).get().status == "queued"


def test_a_log_without_end_is_cut(worker, monkeypatch):
    monkeypatch.setattr(worker_module, "LOG_BYTES", 5000)
    add("a", kind="print_for_ever", limit=1)
    worker.work_once()
    log = Job.objects.get().log_path
    assert "What was printed before is gone" in log.read_text(errors="replace")[:200]


def test_attempts_count_together(worker):
    add("a", kind="fail")
    worker.work_once()
    Job.objects.update(earlier_seconds=100, kind="do_nothing")
    end_pause()
    worker.work_once()
    assert 100 < run_seconds(Job.objects.get()) < 130


def test_what_is_deleted_in_the_administration_takes_its_log_along(worker, client, olga):
    add("a")
    worker.work_once()
    job = Job.objects.get()
    assert job.log_path.exists()
    client.force_login(olga)
    client.post(f"/admin/jobs/job/{job.pk}/delete/", {"post": "yes"})
    assert not Job.objects.exists()
    assert not job.directory.exists()


def put_off_all():
    """As work that cannot go on now, each in turn; then as if its pause were over."""
    while (job := claim()) is not None:
        job_put_off(job, 30, "A train has the device.")
    end_pause()


def test_what_is_put_off_keeps_its_place_and_people_their_turns():
    for number in range(3):
        add(f"a{number}", ALICE)
    add("b0", BOB)
    order = list(in_order(Job.objects.all()).values_list("key", flat=True))
    assert order == ["a0", "b0", "a1", "a2"]
    for _ in range(2):
        put_off_all()
    assert all_in_order() == order


def test_what_is_put_off_says_what_for_and_not_why_it_failed_before(worker, client, alice):
    add("a", kind="fail")
    worker.work_once()
    Job.objects.update(error_advice="Wait.", owner=alice)
    end_pause()
    job_put_off(claim(), 30, "A train has the device.")
    job = Job.objects.get()
    assert (job.error_code, job.error, job.error_advice) == ("", "", "")

    client.force_login(alice)
    for address in ("/jobs/", job.get_absolute_url()):
        page = client.get(address).content.decode()
        assert "A train has the device." in page
        assert "looks again at" in page
        assert "tried again" not in page


def test_a_pause_of_a_day_is_before_nobody(worker):
    add("failing", ALICE, kind="fail")
    worker.work_once()
    add("b", BOB)
    assert jobs_ahead("b") == 0
    assert jobs_ahead("failing") is None


def test_what_failed_before_of_a_kind_that_keeps_nothing_goes_with_its_log(worker):
    kinds._kinds["refuse"] = replace(kinds._kinds["refuse"], keeps=False)
    add("a", kind="refuse")
    worker.work_once()
    failed = Job.objects.get()
    assert failed.log_path.exists()
    add("a", kind="refuse")
    assert Job.objects.get().status == "queued"
    assert not failed.directory.exists()

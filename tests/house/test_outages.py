"""A full disk, a locked database, a lost queue: said in words, and no more of the platform is lost
than must be."""

from __future__ import annotations

import contextlib
import errno
import uuid
from contextlib import contextmanager

import pytest
from django.db import OperationalError, connection
from redis.exceptions import ConnectionError as RedisConnectionError

from core.outages import outage_of
from jobs.devices.presence import WorkerState
from tests.training.conftest import make_train  # noqa: F401 - a fixture


@contextmanager
def full_disk():
    """SQLite's own limit of its file, so that the errors are SQLite's own."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE ballast (bytes BLOB)")
        cursor.execute("PRAGMA page_count")
        pages = cursor.fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count = {pages + 5}")
        with contextlib.suppress(OperationalError):
            while True:
                cursor.execute("INSERT INTO ballast VALUES (zeroblob(1000))")
        # The last room is that in pages of the sessions' own.
        for _ in range(200):
            row = [uuid.uuid4().hex, "x" * 100, "2020-01-01"]
            with contextlib.suppress(OperationalError):
                cursor.execute("INSERT INTO django_session VALUES (%s, %s, %s)", row)
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA max_page_count = 1073741823")
            cursor.execute("DROP TABLE ballast")
            cursor.execute("DELETE FROM django_session WHERE expire_date = '2020-01-01'")


@contextmanager
def writes_fail(error):
    """Every statement that writes ends in this error of the database."""

    def fail(execute, sql, parameters, many, context):
        if sql.startswith(("INSERT", "UPDATE", "DELETE")):
            raise error
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(fail):
        yield


@pytest.fixture
def signed_in(client, alice):
    client.force_login(alice)
    client.raise_request_exception = False
    return client


@pytest.mark.django_db(transaction=True)
def test_people_can_sign_in_and_look_while_the_disk_is_full(client, alice):
    client.raise_request_exception = False
    with full_disk():
        answer = client.post("/login/", {"username": "alice", "password": "alice-password-1"})
        assert (answer.status_code, answer["Location"]) == (302, "/trains/")
        assert client.get("/trains/").status_code == 200
        wrong = client.post("/login/", {"username": "alice", "password": "wrong"})
        assert wrong.status_code in (200, 507)

    # A password that is changed ends such a session as well, and signing out does.
    alice.set_password("another-password-1")
    alice.save()
    assert client.get("/trains/").status_code == 302


@pytest.mark.django_db(transaction=True)
def test_a_write_on_a_full_disk_says_so(signed_in, make_train):  # noqa: F811
    run = make_train(status="stopped")
    notes = "x" * 15_000
    with full_disk():
        page = signed_in.post(f"/trains/{run.pk}/edit/", {"notes": notes})
        api = signed_in.patch(
            f"/api/v1/trains/{run.pk}/", {"notes": notes}, content_type="application/json"
        )
    assert page.status_code == api.status_code == 507
    assert "The disk is full" in page.content.decode()
    assert api.json()["error"]["code"] == "no_disk_space"
    assert signed_in.get(f"/trains/{run.pk}/").status_code == 200


def test_a_locked_database_is_a_moment_to_wait(signed_in, make_train):  # noqa: F811
    run = make_train(status="stopped")
    with writes_fail(OperationalError("database is locked")):
        page = signed_in.post(f"/trains/{run.pk}/edit/", {"notes": "new"})
        api = signed_in.patch(
            f"/api/v1/trains/{run.pk}/", {"notes": "new"}, content_type="application/json"
        )
        sign_in = signed_in.post("/login/", {"username": "alice", "password": "alice-password-1"})
    for answer in (page, api, sign_in):
        assert (answer.status_code, answer["Retry-After"]) == (503, "10")
    assert "The database is busy" in page.content.decode()
    assert api.json()["error"]["code"] == "database_busy"


def from_postgresql(message, sqlstate=None):
    import psycopg

    cause = psycopg.OperationalError(message)
    if sqlstate is not None:
        cause = psycopg.errors.lookup(sqlstate)(message)
    error = OperationalError(message)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OperationalError("database is locked"), "database_busy"),
        (OperationalError("database table is locked: training_trainrun"), "database_busy"),
        (OperationalError("database or disk is full"), "no_disk_space"),
        (OperationalError("unable to open database file"), "database_unavailable"),
        (OperationalError("no such column: x"), None),
        (from_postgresql("connection refused"), "database_unavailable"),
        (
            from_postgresql("terminating connection due to administrator command", "57P01"),
            "database_unavailable",
        ),
        (from_postgresql("could not extend file", "53100"), "no_disk_space"),
        (from_postgresql("sorry, too many clients already", "53300"), "database_unavailable"),
        (OSError(errno.ENOSPC, "No space left on device"), "no_disk_space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no_disk_space"),
        (PermissionError(errno.EACCES, "no"), None),
        (RedisConnectionError("refused"), "queue_unavailable"),
        (RecursionError(), None),
        (None, None),
    ],
)
def test_an_outage_is_told_from_a_bug(error, code):
    found = outage_of(error)
    assert (found.code if found else None) == code


def test_health_tells_of_a_full_disk_and_keeps_nobody_out(client, db, monkeypatch):
    monkeypatch.setattr("core.store.FULL_BYTES", 10**18)
    monkeypatch.setattr("deepextension.health.queue_answers", lambda: True)
    monkeypatch.setattr("deepextension.health.worker_state", lambda: WorkerState(True, None, ""))
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["status"], answer.json()["disk"]) == (
        200,
        "disk full",
        False,
    )

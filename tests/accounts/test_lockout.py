"""Guessing passwords through the real views, from several addresses and by several threads."""

import logging
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.db import connection, connections
from django.test import Client
from django.utils import timezone

from accounts.hashers import Gate, GatedPBKDF2PasswordHasher
from accounts.models import KnownAddress, SignInCounter

RIGHT = "alice-password-1"
from tests.markup import markup


def sign_in(address, name="alice", password="wrong", browser=None, **headers):
    """What the sign-in page answers to somebody at `address`, with a new browser unless one is
    given."""
    return (browser or Client()).post(
        "/login/", {"username": name, "password": password}, REMOTE_ADDR=address, **headers
    )


def token(address, name="alice", password="wrong"):
    return Client().post(
        "/api/v1/auth/token/",
        {"username": name, "password": password},
        content_type="application/json",
        REMOTE_ADDR=address,
    )


@pytest.fixture(autouse=True)
def few_tries(settings):
    settings.SIGN_IN_FAILURE_LIMIT = 3


def test_it_locks_an_account_at_the_address_of_the_failures_and_says_for_how_long(alice):
    for _ in range(3):
        assert sign_in("203.0.113.1").status_code == 200

    locked = sign_in("203.0.113.1", password=RIGHT)

    assert locked.status_code == 429
    assert 0 < int(locked["Retry-After"]) <= 900
    assert "Try again in <strong>15 minutes</strong>" in markup(locked)
    assert sign_in("203.0.113.2", password=RIGHT).status_code == 302


@pytest.mark.parametrize("wanted", ["", "/admin/training/trainrun/"])
def test_the_administration_has_no_door_of_its_own(client, olga, wanted):
    """One page to sign in, with its limits, and with its way round a full disk."""
    credentials = {"username": "olga", "password": "olga-password-1"}
    address = "/admin/login/" + (f"?next={wanted}" if wanted else "")
    for answer in (client.get(address), client.post(address, credentials)):
        assert (answer.status_code, answer.url) == (
            302,
            "/login/?" + urlencode({"next": wanted or "/admin/"}),
        )
        assert "_auth_user_id" not in client.session
    assert client.post(answer.url, credentials).url == (wanted or "/admin/")


def test_who_is_signed_in_and_may_not_see_the_administration_is_told_so(client, alice):
    client.force_login(alice)
    answer = client.get("/admin/", follow=True)
    assert answer.status_code == 200
    assert "You are authenticated as alice, but are not authorized" in markup(answer)


def test_the_api_answers_a_lock_out_in_its_own_error_shape(alice):
    for _ in range(3):
        assert token("203.0.113.1").status_code == 403

    locked = token("203.0.113.1", password=RIGHT)

    assert locked.status_code == 429
    assert locked.json()["error"]["code"] == "locked_out"
    assert locked.json()["error"]["message"] == "Too many failed sign-ins. Try again in 15 minutes."
    assert int(locked["Retry-After"]) > 0


def test_an_attack_from_many_addresses_does_not_lock_out_where_the_person_signed_in_before(alice):
    assert sign_in("198.51.100.7", password=RIGHT).status_code == 302
    for number in range(15):
        sign_in(f"203.0.113.{number}")

    assert sign_in("203.0.113.99", password=RIGHT).status_code == 429
    assert sign_in("198.51.100.7", password=RIGHT).status_code == 302
    assert token("198.51.100.7", password=RIGHT).status_code == 200


def test_a_known_address_may_not_guess_for_ever_either(alice):
    assert sign_in("198.51.100.7", password=RIGHT).status_code == 302
    for _ in range(3):
        sign_in("198.51.100.7")
    assert sign_in("198.51.100.7", password=RIGHT).status_code == 429


def test_a_known_browser_goes_through_although_its_address_is_locked(alice):
    """As where an attacker sits behind the same proxy, or in the same office."""
    browser = Client()
    assert sign_in("198.51.100.7", password=RIGHT, browser=browser).status_code == 302
    browser.post("/logout/")
    for _ in range(4):
        sign_in("198.51.100.7")

    assert sign_in("198.51.100.7", password=RIGHT).status_code == 429
    assert sign_in("198.51.100.7", password=RIGHT, browser=browser).status_code == 302


def test_the_cookie_of_one_person_says_nothing_for_another(alice, bob):
    browser = Client()
    sign_in("198.51.100.7", name="bob", password="bob-password-1", browser=browser)
    for _ in range(3):
        sign_in("198.51.100.7", browser=browser)
    assert sign_in("198.51.100.7", password=RIGHT, browser=browser).status_code == 429


def test_one_address_cannot_try_many_names(alice, bob):
    for number in range(15):
        assert sign_in("203.0.113.1", name=f"somebody-{number}").status_code == 200

    assert sign_in("203.0.113.1", password=RIGHT).status_code == 429
    assert sign_in("203.0.113.2", password=RIGHT).status_code == 302


def test_addresses_of_one_ipv6_network_count_as_one(alice):
    for number in range(3):
        sign_in(f"2001:db8:1:2::{number + 1}")
    assert sign_in("2001:db8:1:2:ffff::1", password=RIGHT).status_code == 429
    assert sign_in("2001:db8:1:3::1", password=RIGHT).status_code == 302


@pytest.mark.parametrize(
    ("proxies", "forwarded", "same"),
    [
        # Without proxies of ours the header is anybody's word.
        (0, "203.0.113.{}", True),
        # One proxy wrote the last entry; what stands before it came from the client.
        (1, "203.0.113.{}", False),
        (1, "203.0.113.{}, 198.51.100.9", True),
        (2, "6.6.6.6, 203.0.113.{}, 10.0.0.2", False),
        # Past the proxies, straight to the server.
        (2, "203.0.113.{}", True),
        (1, "203.0.113.{}:4711", False),
    ],
)
def test_it_believes_a_forwarded_address_as_far_as_our_proxies_wrote_it(
    alice, settings, proxies, forwarded, same
):
    settings.TRUSTED_PROXY_COUNT = proxies
    for number in range(3):
        sign_in("10.0.0.1", HTTP_X_FORWARDED_FOR=forwarded.format(number))

    last = sign_in("10.0.0.1", password=RIGHT, HTTP_X_FORWARDED_FOR=forwarded.format(77))

    assert last.status_code == (429 if same else 302)


def test_it_warns_once_of_a_proxy_that_is_not_declared(alice, caplog):
    for _ in range(2):
        sign_in("10.0.0.1", HTTP_X_FORWARDED_FOR="203.0.113.1")
    assert caplog.text.count("TRUSTED_PROXY_COUNT is 0") == 1


def test_the_log_names_account_and_address_once_for_each_lock_out_and_no_password(alice, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(6):
            sign_in("203.0.113.1", password="hunter2-guess")
        for _ in range(6):
            sign_in("203.0.113.1", name="typed-my-password-here", password="hunter2-guess")

    lines = [
        record.getMessage() for record in caplog.records if record.name == "deepextension.sign_in"
    ]
    assert len(lines) == 2
    assert (
        "account alice from 203.0.113.1 is locked out for 15 minutes, after 3 failures" in lines[0]
    )
    assert "unknown name" in lines[1]
    assert "hunter2" not in caplog.text
    assert "typed-my-password-here" not in caplog.text
    assert not SignInCounter.objects.filter(key__contains="typed-my").exists()


def test_a_lock_out_ends(alice):
    for _ in range(3):
        sign_in("203.0.113.1")
    SignInCounter.objects.update(expires_at=timezone.now())
    assert sign_in("203.0.113.1", password=RIGHT).status_code == 302
    assert SignInCounter.objects.filter(kind="pair").count() == 0


def test_tries_during_a_lock_out_do_not_make_it_longer(alice):
    for _ in range(3):
        sign_in("203.0.113.1")
    until = SignInCounter.objects.get(kind="pair").expires_at
    for _ in range(5):
        sign_in("203.0.113.1")
    assert SignInCounter.objects.get(kind="pair").expires_at == until


def test_the_right_password_forgets_the_own_mistakes_and_not_those_of_others(alice):
    for _ in range(2):
        sign_in("198.51.100.7")
    sign_in("203.0.113.1")
    assert sign_in("198.51.100.7", password=RIGHT).status_code == 302

    counts = {(row.kind, row.key): row.count for row in SignInCounter.objects.all()}
    assert ("pair", "alice from 198.51.100.7") not in counts
    assert counts["pair", "alice from 203.0.113.1"] == 1
    assert counts["account", "alice"] == 3


def test_an_operator_unlocks_in_the_administration(alice, olga, client):
    for _ in range(3):
        sign_in("203.0.113.1")
    row = SignInCounter.objects.get(kind="pair")
    client.force_login(olga)
    assert "alice from 203.0.113.1" in client.get("/admin/accounts/signincounter/").content.decode()
    client.post(f"/admin/accounts/signincounter/{row.pk}/delete/", {"post": "yes"})
    assert sign_in("203.0.113.1", password=RIGHT).status_code == 302


def test_addresses_that_a_person_signed_in_from_are_bounded(alice, monkeypatch):
    monkeypatch.setattr("accounts.lockout.KNOWN_ADDRESSES", 2)
    for number in range(4):
        sign_in(f"198.51.100.{number}", password=RIGHT)
    assert set(KnownAddress.objects.values_list("address", flat=True)) == {
        "198.51.100.2",
        "198.51.100.3",
    }


@pytest.mark.parametrize("name", ["nul\x00", "n" * 151])
def test_a_name_that_no_account_can_have_is_just_wrong(db, name):
    assert sign_in("203.0.113.1", name=name).status_code == 200


@contextmanager
def database_in_a_file(path):
    """For threads of a test: the tests' own database is in memory, where SQLite lets nobody wait
    for a lock."""
    with connection.cursor() as cursor:
        cursor.execute(f"VACUUM INTO '{path}'")
    in_memory = connections.databases["default"]["NAME"]
    connections.databases["default"]["NAME"] = str(path)
    try:
        yield
    finally:
        connections.databases["default"]["NAME"] = in_memory


def in_threads(count, work):
    """The results of `work` in so many threads that begin together."""
    begin, results = threading.Barrier(count), []

    def run():
        try:
            begin.wait()
            results.append(work())
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.django_db(transaction=True)
def test_tries_at_the_same_moment_are_all_counted(tmp_path):
    User.objects.create_user("alice", password=RIGHT)
    with database_in_a_file(tmp_path / "threads.sqlite3"):
        answers = in_threads(12, lambda: sign_in("203.0.113.1").status_code)
    assert sorted(answers) == [200] * 3 + [429] * 9


@pytest.mark.django_db(transaction=True)
def test_a_flood_of_sign_ins_leaves_threads_for_other_pages(settings, monkeypatch, tmp_path):
    """One password at a time and one that waits: the others are told to come back, at once and
    uncounted."""
    settings.PASSWORD_HASHERS = ["accounts.hashers.GatedPBKDF2PasswordHasher"]
    settings.SIGN_IN_FAILURE_LIMIT = 100
    for name in ("alice", "bob"):
        User.objects.create_user(name, password=RIGHT)
    monkeypatch.setattr(GatedPBKDF2PasswordHasher, "gate", Gate(at_once=1, waiting=1))

    with (
        database_in_a_file(tmp_path / "threads.sqlite3"),
        GatedPBKDF2PasswordHasher.gate.admitted(),
    ):
        # One hash is at work, one more thread may wait for it.
        waiting = threading.Thread(
            target=lambda: (sign_in("203.0.113.2", name="bob"), connections.close_all())
        )
        waiting.start()
        while GatedPBKDF2PasswordHasher.gate._places._value and waiting.is_alive():
            time.sleep(0.01)
        page, api = sign_in("203.0.113.1", password=RIGHT), token("203.0.113.1", password=RIGHT)
    waiting.join()

    assert (page.status_code, api.status_code) == (503, 503)
    assert page["Retry-After"] == api["Retry-After"] == "5"
    assert "Too many people are signing in" in markup(page)
    assert api.json()["error"]["code"] == "busy"
    assert not SignInCounter.objects.filter(key__contains="alice from", count__gt=0).exists()
    assert sign_in("203.0.113.1", password=RIGHT).status_code == 302


def test_the_bound_holds_for_every_way_to_a_hash(settings, alice, client):
    """Signing in is one of several ways to make the server hash."""
    settings.PASSWORD_HASHERS = ["accounts.hashers.GatedPBKDF2PasswordHasher"]
    client.force_login(alice)
    gate = GatedPBKDF2PasswordHasher.gate
    taken = 0
    while gate._places.acquire(blocking=False):
        taken += 1
    try:
        change = {
            "old_password": "x",
            "new_password": "another-Pass-77",
            "new_password_again": "another-Pass-77",
        }
        assert client.post("/account/password/", change).status_code == 503
        assert sign_in("203.0.113.5", name="nobody").status_code == 503
        assert token("203.0.113.5", name="nobody").status_code == 503
    finally:
        for _ in range(taken):
            gate._places.release()

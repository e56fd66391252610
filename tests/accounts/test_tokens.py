"""Tokens: what each scope opens, when they end, and what becomes of those that were made before
scopes."""

import json
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.utils import timezone
from redis.exceptions import RedisError
from rest_framework.test import APIClient

from accounts import request_limits
from accounts.models import Token
from accounts.scopes import SCOPES
from accounts.tokens import token_create
from core.errors import UserError
from openai_api.models import Call
from tests.house.test_project import ROOT
from tests.routes import routes

# Signing in itself, and the document, which answers in formats of its own.
OTHERS = ("api-token", "api-docs", "api-schema")
VALUES = {"public_id": "00000000-0000-4000-8000-000000000000", "key": "lora"}
API = sorted(
    {
        route.path(VALUES, otherwise="1")
        for route in routes()
        if route.pattern.startswith(("api/v1/", "v1/")) and route.name not in OTHERS
    }
)
# What tokens that may train may change.
AREAS = (
    *("/api/v1/trains/", "/api/v1/chains/", "/api/v1/sweeps/", "/api/v1/datasets/"),
    "/api/v1/models/",
    *("/api/v1/exports/", "/api/v1/jobs/", "/v1/files", "/v1/uploads", "/v1/fine_tuning"),
)
# Asking models: for tokens that may do nothing else, and for those that may train.
ASKING = ("/v1/chat", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/batches")
# What deletes many, gives away or makes data of conversations: only for tokens that may all.
WHOLE = (
    *("/bulk/", "/sharing/", "/hand-over/"),
    *("/conversations/datasets/", "/conversations/prompts/"),
)
CHANGES = ("post", "put", "patch", "delete")


def api(user, scope="all"):
    client = APIClient()
    _, text = token_create(user=user, name="test", scope=scope)
    client.credentials(HTTP_AUTHORIZATION=f"Token {text}")
    return client


def refused_for_its_scope(response):
    return (
        response.status_code == 403
        and json.loads(response.content)["error"]["code"] == "token_scope"
    )


def expected(scope, method, path):
    """Whether a token of this scope may make this call, said in other words than the code's."""
    if scope == "chat":
        reads = path.startswith("/v1/models") and method == "get"
        files = path.startswith("/v1/files") and method != "delete"
        own = (*ASKING, "/api/v1/conversations")
        return (path.startswith(own) and not path.endswith(WHOLE)) or reads or files
    if method == "get" or scope == "all":
        return True
    if scope == "read":
        return method == "post" and path in ("/api/v1/trains/plan/", "/api/v1/sweeps/plan/")
    if path.endswith(WHOLE):
        return False
    return method != "delete" and path.startswith((*AREAS, *ASKING))


@pytest.mark.long
@pytest.mark.parametrize("scope", SCOPES)
def test_a_token_may_at_every_address_what_its_scope_says_and_no_more(alice, scope):
    client, wrong = api(alice, scope), []
    for path in API:
        for method in ("get", *CHANGES):
            may = not refused_for_its_scope(getattr(client, method)(path))
            if may != expected(scope, method, path):
                wrong.append((method, path, may))
    assert wrong == []
    assert len(API) > 40


def count(settings, monkeypatch, answers):
    """A limit of two requests a minute, and a Redis that answers the steps of a count so."""

    class Steps:
        def __getattr__(self, name):
            return lambda *arguments, **options: None

        def execute(self):
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    settings.REQUESTS_PER_MINUTE = 2
    monkeypatch.setattr(
        request_limits, "connection", lambda: SimpleNamespace(pipeline=lambda **options: Steps())
    )


def test_a_token_makes_no_more_requests_a_minute_than_it_may(alice, settings, monkeypatch):
    count(settings, monkeypatch, [(True, 1, 60_000), (None, 2, 30_000), (None, 3, 12_400)])
    client = api(alice)

    assert [client.get("/api/v1/account/").status_code for _ in range(2)] == [200, 200]
    refused = client.get("/api/v1/account/")
    assert (refused.status_code, refused["Retry-After"]) == (429, "13")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


def test_v1_says_what_is_left_of_a_tokens_requests(alice, settings, monkeypatch):
    count(settings, monkeypatch, [(True, 1, 60_000), (None, 3, 12_400)])
    client = api(alice)
    names = ("limit", "remaining", "reset")
    said = []
    for status in (200, 429):
        answer = client.get("/v1/batches")
        assert answer.status_code == status
        said.append([answer[f"x-ratelimit-{name}-requests"] for name in names])

    assert said == [["2", "1", "60.000s"], ["2", "0", "12.400s"]]
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert list(Call.objects.values_list("status", flat=True)) == [429, 200]


def test_while_redis_is_away_nobody_is_refused(alice, settings, monkeypatch):
    count(settings, monkeypatch, [RedisError("away")])
    assert api(alice).get("/api/v1/account/").status_code == 200


def test_a_limit_of_its_own_takes_the_place_of_the_platforms(alice, settings):
    settings.REQUESTS_PER_MINUTE = 5
    limits = [None, 0, 7]
    made = [token_create(user=alice, name="a", requests_per_minute=limit)[0] for limit in limits]
    assert [token.request_limit for token in made] == [5, 0, 7]
    with pytest.raises(UserError):
        token_create(user=alice, name="a", requests_per_minute=-1)


def test_a_scope_that_the_table_no_longer_has_opens_nothing(alice):
    client = api(alice)
    Token.objects.update(scope="of-a-later-version")
    assert refused_for_its_scope(client.get("/api/v1/trains/"))


def test_its_last_use_is_noted_about_once_a_minute(alice):
    client = api(alice)
    assert Token.objects.get().last_used is None
    client.get("/api/v1/account/")
    first = Token.objects.get().last_used
    assert first is not None
    client.get("/api/v1/account/")
    assert Token.objects.get().last_used == first
    Token.objects.update(last_used=timezone.now() - timedelta(minutes=2))
    client.get("/api/v1/account/")
    assert Token.objects.get().last_used > first


@pytest.mark.parametrize(
    "header", ["Token \xff\xfe", "Token nul\x00", "Token", "Token a b", "Token " + "a" * 5000]
)
def test_nonsense_in_the_header_is_a_refusal_and_no_error_of_the_server(db, header):
    assert APIClient().get("/api/v1/trains/", HTTP_AUTHORIZATION=header).status_code == 401


def test_a_person_has_a_bounded_number_of_tokens(alice, bob, settings):
    settings.TOKENS_PER_PERSON = 2
    for _ in range(2):
        token, _ = token_create(user=alice, name="test")
    with pytest.raises(UserError) as refused:
        token_create(user=alice, name="test")
    assert refused.value.status == 409
    credentials = {"username": "alice", "password": "alice-password-1"}
    assert APIClient().post("/api/v1/auth/token/", credentials).status_code == 409

    token_create(user=bob, name="test")
    Token.objects.filter(pk=token.pk).update(expiry=timezone.now())
    token_create(user=alice, name="in the place of one that has expired")


def new_password_on_the_page(client, user):
    fields = {"old_password": "alice-password-1", "new_password": "Harbour-77-crane"}
    return client.post("/account/password/", fields | {"new_password_again": "Harbour-77-crane"})


def new_password_by_the_api(client, user):
    fields = {"old_password": "alice-password-1", "new_password": "Harbour-77-crane"}
    return client.post("/api/v1/account/password/", fields, content_type="application/json")


def new_password_by_an_operator(client, user):
    operator = Client()
    operator.force_login(User.objects.create_superuser("operator"))
    fields = {
        "password1": "Harbour-77-crane",
        "password2": "Harbour-77-crane",
        "usable_password": "true",
    }
    return operator.post(f"/admin/auth/user/{user.pk}/password/", fields)


def new_password_by_command(client, user):
    user.set_password("Harbour-77-crane")
    user.save()


@pytest.mark.parametrize(
    "change",
    [
        new_password_on_the_page,
        new_password_by_the_api,
        new_password_by_an_operator,
        new_password_by_command,
    ],
)
def test_a_new_password_ends_tokens_and_other_sessions_however_it_comes_about(
    client, alice, change
):
    program, elsewhere = api(alice), Client()
    for browser in (client, elsewhere):
        browser.post("/login/", {"username": "alice", "password": "alice-password-1"})
    assert (
        program.get("/api/v1/trains/").status_code == elsewhere.get("/account/").status_code == 200
    )

    change(client, alice)

    assert User.objects.get(username="alice").check_password("Harbour-77-crane")
    assert program.get("/api/v1/trains/").status_code == 401
    assert elsewhere.get("/account/").status_code == 302
    own = change in (new_password_on_the_page, new_password_by_the_api)
    assert client.get("/account/").status_code == (200 if own else 302)


def test_the_same_password_hashed_anew_ends_nothing(client, alice, settings):
    """As Django does by itself at the first sign-in after an upgrade."""
    program = api(alice)
    settings.PASSWORD_HASHERS = [
        "django.contrib.auth.hashers.ScryptPasswordHasher",
        "django.contrib.auth.hashers.MD5PasswordHasher",
    ]
    client.post("/login/", {"username": "alice", "password": "alice-password-1"})
    assert User.objects.get(username="alice").password.startswith("scrypt")
    assert program.get("/api/v1/trains/").status_code == 200


def old_home(cursor):
    """The tables that knox and axes had made, with a token and a sign-in."""
    cursor.execute(
        "CREATE TABLE knox_authtoken (digest varchar(128) PRIMARY KEY, created datetime NOT NULL, "
        "user_id integer NOT NULL, expiry datetime NULL, token_key varchar(25) NOT NULL)"
    )
    cursor.execute(
        "CREATE TABLE axes_accesslog (id integer PRIMARY KEY, username varchar(255), ip_address "
        "char(39), "
        "attempt_time datetime NOT NULL)"
    )


@pytest.mark.long
@pytest.mark.django_db(transaction=True)
def test_tokens_of_before_go_on_with_all_rights_and_known_addresses_are_taken_over():
    alice = User.objects.create_user("alice")
    _, text = token_create(user=alice, name="test")
    token = Token.objects.get()
    call_command("migrate", "accounts", "0001", verbosity=0)
    try:
        with connection.cursor() as cursor:
            old_home(cursor)
            cursor.execute(
                "INSERT INTO knox_authtoken VALUES (%s, '2026-01-02 03:04:05', %s, '2036-01-01 "
                "00:00:00', %s)",
                [token.digest, alice.pk, token.token_key],
            )
            cursor.execute(
                "INSERT INTO axes_accesslog VALUES (1, 'alice', '203.0.113.9', '2026-11-01 "
                "00:00:00')"
            )
            # By hand: the model has columns of later versions.
            cursor.execute("DELETE FROM accounts_token")

        call_command("migrate", verbosity=0)

        moved = Token.objects.get()
        assert (moved.name, moved.scope, moved.created.year) == (
            "Token of 02 Jan 2026",
            "all",
            2026,
        )
        assert alice.known_addresses.get().address == "203.0.113.9"
        program = APIClient()
        program.credentials(HTTP_AUTHORIZATION=f"Token {text}")
        assert program.post("/api/v1/account/tokens/", {"name": "another"}).status_code == 201

        call_command("migrate", "accounts", "0001", verbosity=0)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM knox_authtoken")
            assert cursor.fetchone() == (2,)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE knox_authtoken")
            cursor.execute("DROP TABLE axes_accesslog")
        call_command("migrate", verbosity=0)


def test_every_scope_has_words_for_people():
    for scope in SCOPES.values():
        assert scope.title
        assert scope.description.endswith(".")


def test_the_docs_have_every_scope():
    text = (ROOT / "docs" / "settings.md").read_text()
    assert [name for name in SCOPES if f"| `{name}` " not in text] == []

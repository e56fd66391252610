"""The page "For programs", the calls in the last hour, and the form for a key."""

import json
from datetime import timedelta

import pytest
from bs4 import BeautifulSoup
from django.utils import timezone

from accounts.models import Token
from openai_api.identifiers import NamedModel
from openai_api.inference.calls import calls_prune, calls_write
from openai_api.inference.housekeeping import inference_prune
from openai_api.inference.models import Call, StoredResponse
from openai_api.programs import CALLS_SHOWN, examples, newest_model


def call(user, *, minutes: float = 0, **fields) -> Call:
    at = timezone.now() - timedelta(minutes=minutes)
    given = {"method": "POST", "path": "/v1/chat/completions", "status": 200, "seconds": 0.5}
    return Call(user=user, at=at, **given | fields)


@pytest.fixture
def page(client, alice):
    client.force_login(alice)
    return lambda **headers: client.get("/programs/", headers=headers).content.decode()


def test_it_shows_the_address_and_the_readers_own_model_in_every_example(page, tiny):
    text = page()
    assert text.count("http://testserver/v1") >= 4
    assert text.count("tiny") >= 4
    assert "/account/#tokens" in text


def test_without_a_model_it_says_where_to_get_one(page):
    assert "There is no model to ask yet." in page()


def test_the_model_is_the_newest_of_ones_own_trained_before_others(alice, monkeypatch):
    listed = [
        NamedModel("base", 9, ""),
        NamedModel("ft:base:bob:x:train-3", 8, "bob"),
        NamedModel("ft:base:alice:x:train-1", 1, "alice"),
        NamedModel("ft:base:alice:x:train-2", 2, "alice"),
        NamedModel("own-base", 7, "alice"),
    ]
    monkeypatch.setattr("openai_api.programs.models_listed", lambda reader: listed)
    assert newest_model(alice) == "ft:base:alice:x:train-2"


def test_examples_are_whole_programs_whatever_the_name(alice):
    python, typescript, curl = (example.code for example in examples("http://h/v1", "a\"b'c"))
    compile(python, "example", "exec")
    assert json.dumps("a\"b'c") in typescript
    # What the shell makes of it.
    body = curl.partition("-d '")[2].rpartition("'")[0].replace("'\\''", "'")
    assert json.loads(body)["model"] == "a\"b'c"


def test_calls_of_the_last_hour_are_ones_own_the_newest_first(page, alice, bob):
    calls_write(
        [
            call(alice, model="first", tokens_in=1234, tokens_out=5, minutes=2),
            call(alice, model="second", status=404, code="model_not_found"),
            call(alice, model="left", status=499),
            call(alice, model="too-old", minutes=61),
            call(bob, model="of-bob"),
        ]
    )
    text = page(**{"HX-Request": "true"})
    assert "<html" not in text
    assert text.index("second") < text.index("first")
    assert "1,234, 5" in text
    words = " ".join(BeautifulSoup(text, "html.parser").get_text(" ").split())
    assert "404 model_not_found" in words
    assert "client left" in text
    assert "too-old" not in text
    assert "of-bob" not in text


def test_of_many_calls_the_newest_are_shown(page, alice):
    calls_write([call(alice) for _ in range(CALLS_SHOWN + 3)])
    assert f"{CALLS_SHOWN + 3} calls, the newest {CALLS_SHOWN} here" in page()


def test_a_call_that_cannot_be_stored_takes_no_other_with_it(alice):
    calls_write([call(alice, status=None), call(alice, model="good")])
    assert [row.model for row in Call.objects.all()] == ["good"]


def test_every_call_of_v1_is_listed_once_also_those_that_are_refused(client_of, alice, tiny):
    openai = client_of(alice)
    openai.models.list()
    for method, path in (("GET", "/files/nobody"), ("POST", "/chat/completions")):
        openai._client.request(
            method, f"http://testserver/v1{path}", json={}, headers=openai.auth_headers
        )
    assert list(Call.objects.order_by("id").values_list("method", "path", "status")) == [
        ("GET", "/v1/models", 200),
        ("GET", "/v1/files/nobody", 404),
        ("POST", "/v1/chat/completions", 400),
    ]
    assert {row.token.name for row in Call.objects.all()} == {"a program"}


def test_what_is_old_is_forgotten(alice):
    calls_write([call(alice), call(alice, minutes=61)])
    for days in (-1, 1):
        StoredResponse.objects.create(
            owner=alice, body={}, messages=[], expires_at=timezone.now() + timedelta(days=days)
        )
    inference_prune()
    calls_prune()
    assert (Call.objects.count(), StoredResponse.objects.count()) == (1, 1)


@pytest.mark.parametrize(("text", "limit"), [("", None), ("0", 0), ("30", 30)])
def test_a_key_gets_its_limit_on_the_account_page(client, alice, text, limit):
    client.force_login(alice)
    form = {"name": "a", "scope": "chat", "days": "7", "requests_per_minute": text}
    shown = client.post("/account/tokens/", form).content.decode()
    assert "data-new-token" in shown
    token = Token.objects.get()
    assert (token.scope, token.requests_per_minute) == ("chat", limit)


@pytest.mark.parametrize("text", ["many", "-1", "99999999"])
def test_a_limit_that_cannot_be_is_refused_beside_its_field(client, alice, text):
    client.force_login(alice)
    form = {"name": "a", "scope": "chat", "days": "7", "requests_per_minute": text}
    answer = client.post("/account/tokens/", form)
    assert answer.status_code == 400
    assert "token-requests-error" in answer.content.decode()
    assert not Token.objects.exists()

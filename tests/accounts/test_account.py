"""The account page and its twin in the API."""

import pytest
from bs4 import BeautifulSoup
from django.core import mail
from django.test import Client
from rest_framework.test import APIClient

from accounts.encryption import decrypt
from accounts.mail import password_reset_send
from accounts.models import Profile, SignInCounter, Token
from accounts.services import hub_token_for, notices_wanted
from accounts.tokens import token_create

HUB = "hf_canaryCanaryCanary"


@pytest.fixture
def page(client, alice):
    client.force_login(alice)
    return client


@pytest.fixture
def api(alice):
    client = APIClient()
    client.force_authenticate(alice)
    return client


def test_everybody_finds_it_in_the_menu(page):
    menu = BeautifulSoup(page.get("/trains/").content, "html.parser").select_one(".side-foot")
    assert menu.find("a", href="/account/")
    assert menu.find("a", href="/account/#tokens")


def test_a_new_token_is_shown_once_and_works(page, alice):
    made = page.post(
        "/account/tokens/", {"name": " nightly  script ", "scope": "read", "days": "7"}
    )
    text = BeautifulSoup(made.content, "html.parser").select_one("[data-new-token]").text

    token = Token.objects.get()
    assert (token.name, token.scope) == ("nightly script", "read")
    assert round((token.expiry - token.created).total_seconds() / 86_400) == 7
    program = APIClient()
    program.credentials(HTTP_AUTHORIZATION=f"Token {text}")
    assert program.get("/api/v1/trains/").status_code == 200

    again = page.get("/account/").content.decode()
    assert "nightly script" in again
    assert text not in again
    assert text not in str(dict(page.session))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": " "}, "Name it after what will use it"),
        ({"scope": "root"}, "Choose one of read, train, chat, all"),
        ({"days": "0"}, "Choose between 1 and 3,650 days"),
        ({"days": "many"}, "Choose between 1 and 3,650 days"),
        *(
            ({"requests_per_minute": text}, "0 for no limit.")
            for text in ("６０", "²", "-1", "9" * 30)
        ),
    ],
)
def test_a_token_that_cannot_be_made_says_why(page, fields, said):
    refused = page.post("/account/tokens/", {"name": "test", "scope": "read", "days": "7"} | fields)
    assert refused.status_code == 400
    assert said in refused.content.decode()
    assert not Token.objects.exists()


def test_a_revoked_token_opens_nothing_and_a_strangers_stays(page, alice, bob):
    own, _ = token_create(user=alice, name="own")
    other, _ = token_create(user=bob, name="other")
    for token in (own, other):
        page.post(f"/account/tokens/{token.public_id}/revoke/")
    assert list(Token.objects.values_list("name", flat=True)) == ["other"]


def test_the_api_lists_makes_and_revokes_tokens(api, bob):
    made = api.post("/api/v1/account/tokens/", {"name": "nightly", "scope": "train", "days": 3})
    assert made.status_code == 201
    assert len(made.data["token"]) == 64

    (listed,) = api.get("/api/v1/account/tokens/").data
    assert listed == {name: value for name, value in made.data.items() if name != "token"}
    assert set(listed) == {
        *("id", "name", "scope", "created_at", "last_used_at", "expires_at"),
        "requests_per_minute",
    }

    other, _ = token_create(user=bob, name="other")
    assert api.delete(f"/api/v1/account/tokens/{other.public_id}/").status_code == 404
    assert api.delete(f"/api/v1/account/tokens/{listed['id']}/").status_code == 204
    assert api.get("/api/v1/account/tokens/").data == []


@pytest.mark.parametrize(
    "body", [{"name": ""}, {"scope": "root"}, {"days": 0}, {"days": 10**9}, {"more": 1}]
)
def test_the_api_refuses_tokens_that_cannot_be(api, body):
    assert api.post("/api/v1/account/tokens/", {"name": "test"} | body).status_code == 400


def test_e_mail_and_notices_are_changed_on_the_page(page, alice):
    page.post("/account/profile/", {"email": " alice@example.org "})
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"
    assert not notices_wanted(alice)

    page.post("/account/profile/", {"email": "alice@example.org", "notices": "on"})
    assert notices_wanted(alice)
    refused = page.post("/account/profile/", {"email": "alice"})
    assert refused.status_code == 400
    assert "That is not an e-mail address" in refused.content.decode()
    assert 'value="alice"' in refused.content.decode()


def test_the_api_changes_what_it_is_given_and_nothing_else(api, alice):
    assert api.patch("/api/v1/account/", {"email": "alice@example.org"}).status_code == 200
    changed = api.patch("/api/v1/account/", {"notices": False}).data
    assert changed == {
        "username": "alice",
        "email": "alice@example.org",
        "notices": False,
        "hub_token": "none",
    }
    assert api.get("/api/v1/account/").data == changed
    assert api.patch("/api/v1/account/", {"email": "no"}).status_code == 400
    assert api.patch("/api/v1/account/", {"username": "root"}).status_code == 400


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"old_password": "wrong"}, "That is not your current password"),
        ({"new_password": "short", "new_password_again": "short"}, "too short"),
        ({"new_password_again": "other"}, "The two new passwords differ"),
    ],
)
def test_a_password_that_cannot_be_changed_says_why(page, alice, fields, said):
    right = {
        "old_password": "alice-password-1",
        "new_password": "Harbour-77",
        "new_password_again": "Harbour-77",
    }
    refused = page.post("/account/password/", right | fields)
    assert refused.status_code == 400
    assert said in refused.content.decode()
    assert "Harbour-77" not in refused.content.decode()
    alice.refresh_from_db()
    assert alice.check_password("alice-password-1")


def test_an_open_session_is_no_place_to_guess_the_password(page, settings):
    settings.SIGN_IN_FAILURE_LIMIT = 3
    fields = {
        "old_password": "wrong",
        "new_password": "Harbour-77",
        "new_password_again": "Harbour-77",
    }
    answers = [page.post("/account/password/", fields).status_code for _ in range(4)]
    assert answers == [400, 400, 400, 429]


def test_the_administration_leads_to_the_same_form(client, olga):
    client.force_login(olga)
    assert client.get("/admin/password_change/")["Location"] == "/account/#password"


def test_the_page_says_what_a_change_of_password_ends(page):
    text = BeautifulSoup(page.get("/account/").content, "html.parser").select_one("#password").text
    assert "revokes all your API tokens and signs you out of every other browser" in text


def test_a_wrong_password_puts_the_cursor_into_the_password_field(client, alice):
    def focused(response):
        return [
            field["name"]
            for field in BeautifulSoup(response.content, "html.parser").select("[autofocus]")
        ]

    assert focused(client.get("/login/")) == ["username"]
    assert focused(client.post("/login/", {"username": "alice", "password": "wrong"})) == [
        "password"
    ]


def test_a_hub_token_is_stored_encrypted_and_never_shown(page, api, alice, caplog):
    page.post("/account/hub-token/", {"hub_token": f" {HUB} "})
    stored = Profile.objects.get().hub_token
    assert HUB not in stored
    assert decrypt(stored) == HUB
    assert hub_token_for(alice) == HUB

    seen = (
        page.get("/account/").content.decode() + str(api.get("/api/v1/account/").data) + caplog.text
    )
    assert HUB not in seen
    assert "A token is stored" in seen

    page.post("/account/hub-token/remove/")
    assert hub_token_for(alice) == ""


def test_the_api_stores_and_removes_a_hub_token(api, alice):
    assert api.patch("/api/v1/account/", {"hub_token": HUB}).data["hub_token"] == "set"
    assert hub_token_for(alice) == HUB
    assert api.patch("/api/v1/account/", {"hub_token": "no token"}).status_code == 400
    assert hub_token_for(alice) == HUB
    assert api.patch("/api/v1/account/", {"hub_token": ""}).data["hub_token"] == "none"


def test_a_hub_token_of_another_secret_key_is_said_to_be_unreadable(page, alice, settings):
    page.post("/account/hub-token/", {"hub_token": HUB})
    old = settings.SECRET_KEY
    settings.SECRET_KEY = "another-key-another-key-another-key"
    page.force_login(alice)
    assert "can no longer be read" in page.get("/account/").content.decode()
    assert hub_token_for(alice) == ""
    settings.SECRET_KEY_FALLBACKS = [old]
    assert hub_token_for(alice) == HUB


@pytest.mark.parametrize(("users", "of_alice"), [("operators", ""), ("everybody", "hf_platform")])
def test_the_platforms_token_is_for_operators_unless_the_setting_says_otherwise(
    alice, olga, settings, users, of_alice
):
    settings.HF_TOKEN, settings.HF_TOKEN_USERS = "hf_platform", users
    assert hub_token_for(alice) == of_alice
    assert hub_token_for(olga) == "hf_platform"


def test_a_persons_own_token_goes_before_the_platforms(olga, settings):
    settings.HF_TOKEN = "hf_platform"
    client = APIClient()
    client.force_authenticate(olga)
    client.patch("/api/v1/account/", {"hub_token": HUB})
    assert hub_token_for(olga) == HUB


@pytest.fixture
def with_mail(settings):
    settings.MAIL_FROM = "platform@example.org"
    settings.PUBLIC_URL = "https://train.example/"


def test_without_mail_there_is_no_reset_and_no_link_to_it(client, db):
    assert "password-reset" not in client.get("/login/").content.decode()
    for path in ("/password-reset/", "/password-reset/done/", "/password-reset/MQ/x-y/"):
        assert client.get(path).status_code == 404


def test_a_forgotten_password_is_replaced_by_a_mailed_link(client, alice, with_mail, monkeypatch):
    asked = []
    monkeypatch.setattr("accounts.mail.job_add", lambda kind, pk, **_: asked.append(pk))
    alice.email = "alice@example.org"
    alice.save()
    program = APIClient()
    program.credentials(HTTP_AUTHORIZATION=f"Token {token_create(user=alice, name='test')[1]}")
    assert "/password-reset/" in client.get("/login/").content.decode()

    answers = [
        client.post("/password-reset/", {"email": who})
        for who in ("Alice@example.org", "no@example.org")
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert asked == [alice.pk]
    password_reset_send(alice.pk)
    (letter,) = mail.outbox
    link = next(
        line for line in letter.body.splitlines() if line.startswith("https://train.example/")
    )

    form = client.get(link.removeprefix("https://train.example"), follow=True)
    assert "Choose a new password" in form.content.decode()
    fields = {"new_password1": "Harbour-77-crane", "new_password2": "Harbour-77-crane"}
    done = client.post(form.redirect_chain[-1][0], fields, follow=True)
    assert "Your password is changed" in done.content.decode()
    alice.refresh_from_db()
    assert alice.check_password("Harbour-77-crane")
    assert program.get("/api/v1/trains/").status_code == 401
    assert (
        "no longer works"
        in Client().get(link.removeprefix("https://train.example"), follow=True).content.decode()
    )


def test_nobody_can_have_a_mailbox_flooded(client, alice, with_mail, monkeypatch):
    monkeypatch.setattr("accounts.mail.job_add", lambda *_, **__: None)
    answers = [
        client.post(
            "/password-reset/", {"email": "alice@example.org"}, REMOTE_ADDR=f"203.0.113.{number}"
        ).status_code
        for number in range(6)
    ]
    assert answers == [200] * 5 + [429]
    assert not SignInCounter.objects.filter(key__contains="alice@").exists()


def test_the_document_says_what_a_locked_out_program_gets(api):
    document = api.get("/api/v1/schema/", HTTP_ACCEPT="application/vnd.oai.openapi+json").json()
    sign_in = document["paths"]["/api/v1/auth/token/"]["post"]["responses"]
    assert {"200", "400", "403", "409", "429", "503"} <= set(sign_in)
    assert "Retry-After" in sign_in["429"]["headers"]
    paths = document["paths"]
    assert {"get", "patch"} <= set(paths["/api/v1/account/"])
    assert {"get", "post"} <= set(paths["/api/v1/account/tokens/"])
    assert "delete" in paths["/api/v1/account/tokens/{public_id}/"]
    assert "post" in paths["/api/v1/account/password/"]

"""Sign-in and refusals: pages of their own, which need neither a user nor a working database."""

import re

import pytest
from django.contrib.auth import get_user_model
from django.template.loader import get_template
from django.test import Client

from deepextension.refusals import server_error


def test_the_sign_in_page_has_nothing_from_elsewhere(client, db):
    html = client.get("/login/").content.decode()
    assert re.findall(r'(?:src|href|action)="(?:https?:)?//', html) == []
    assert "<style" not in html
    assert " style=" not in html


def test_a_wrong_password_is_said_and_the_name_kept(client, alice):
    html = client.post("/login/", {"username": "alice", "password": "wrong"}).content.decode()
    assert "The name or the password is wrong" in html
    assert 'value="alice"' in html


def test_signing_in_never_leads_to_another_host(client, alice):
    form = {"username": "alice", "password": "alice-password-1", "next": "//evil.example/"}
    assert client.post("/login/", form)["Location"] == "/trains/"


def test_what_is_not_there_is_said_in_our_look(client, alice):
    client.force_login(alice)
    response = client.get("/no-such-page/")
    assert response.status_code == 404
    assert "Nothing here" in response.content.decode()


def test_a_post_without_its_token_is_refused_with_the_way_out(alice):
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    response = client.post("/trains/1/stop/")
    assert response.status_code == 403
    assert "This page was open too long" in response.content.decode()


@pytest.mark.parametrize("name", ["400", "403", "403_csrf", "404", "413", "500"])
def test_refusals_are_drawn_without_request_user_or_database(name):
    assert "Go to Model Training" in get_template(f"{name}.html").render({})


@pytest.mark.parametrize(("path", "status"), [("/no-such-page/", 404), ("/trains/999999/", 404)])
def test_refusals_keep_the_menu_for_those_who_are_signed_in(client, alice, path, status):
    client.force_login(alice)
    response = client.get(path)
    assert response.status_code == status
    html = response.content.decode()
    assert 'aria-label="Main"' in html
    assert html.count("<h1>") == 1


def test_what_is_not_mine_is_refused_with_the_menu(client, make_train, bob):
    run = make_train(name="private")
    client.force_login(bob)
    assert 'aria-label="Main"' in client.get(run.get_absolute_url()).content.decode()


@pytest.mark.parametrize("name", ["400", "403", "403_csrf", "404", "413", "500"])
def test_every_refusal_has_the_menu_where_the_user_is_known(rf, alice, name):
    request = rf.get("/anywhere/")
    request.user = alice
    html = get_template(f"{name}.html").render({}, request)
    assert 'aria-label="Main"' in html
    assert "Go to Model Training" in html


def test_a_bug_is_told_with_the_menu(rf, alice):
    request = rf.get("/trains/")
    request.user = alice
    response = server_error(request)
    assert response.status_code == 500
    assert 'aria-label="Main"' in response.content.decode()


def test_a_bug_of_the_database_is_told_without_the_menu(rf):
    """No database is allowed in this test, so the menu cannot be drawn."""
    request = rf.get("/trains/")
    request.user = get_user_model()(username="alice")
    response = server_error(request)
    assert response.status_code == 500
    html = response.content.decode()
    assert "Something broke on our side" in html
    assert 'aria-label="Main"' not in html


def test_a_name_with_markup_stays_text_in_the_menu(client, db):
    user = get_user_model().objects.create_user(
        "mallory", password="mallory-password-1", first_name="<b>M</b>"
    )
    client.force_login(user)
    html = client.get("/trains/").content.decode()
    assert "<b>M</b>" not in html
    assert "&lt;b&gt;M&lt;/b&gt;" in html

"""Rows are edited, set aside, put back and searched; the file stays, and one version is made of all
changes."""

import json

import pytest
from bs4 import BeautifulSoup
from django.core.exceptions import PermissionDenied
from rest_framework.test import APIClient

from core.errors import UserError
from datasets_app import row_changes
from datasets_app.checking import dataset_check
from datasets_app.models import Dataset
from datasets_app.repairing import dataset_repair
from datasets_app.row_changes import (
    changes_waiting,
    row_edit,
    row_put_back,
    rows_aside,
    rows_set_aside,
)
from datasets_app.row_finding import rows_search
from tests.markup import markup, typed

CHAT = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Where is it?", "name": "ann"},
        {"role": "assistant", "content": "At the\r\ndepot."},
    ],
    "source": "mail",
    "score": 0.5,
}
PAIR = {"question": "Q", "answer": "A", "tags": ["x"], "n": 1}


def lines(*rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def rows_of(dataset):
    return [json.loads(line) for line in dataset.path.read_bytes().splitlines()]


@pytest.fixture
def apply(alice):
    """The version that is made of what waits."""

    def run(dataset) -> Dataset:
        (version,) = dataset_repair(dataset=dataset, by=alice, repair="apply_changes")
        dataset_check(version.pk)
        version.refresh_from_db()
        return version

    return run


@pytest.fixture
def page(client, alice):
    client.force_login(alice)
    return client


@pytest.fixture
def api(alice):
    client = APIClient()
    client.force_authenticate(alice)
    return client


def test_several_changes_become_one_version_and_the_file_stays(checked, alice, apply):
    dataset = checked(lines(*(PAIR | {"n": number} for number in range(5))))
    before = dataset.path.read_bytes()
    row_edit(dataset=dataset, by=alice, line=2, values=PAIR | {"answer": "Better."})
    row_edit(dataset=dataset, by=alice, line=2, values=PAIR | {"answer": "Best."})
    rows_set_aside(dataset=dataset, by=alice, lines=[3, 5])

    version = apply(dataset)
    assert [(row["n"], row["answer"]) for row in rows_of(version)] == [
        (0, "A"),
        (1, "Best."),
        (3, "A"),
    ]
    assert (
        version.version,
        version.repair["counts"]["changed"],
        version.repair["counts"]["left_out"],
    ) == (2, 1, 2)
    assert dataset.path.read_bytes() == before
    assert changes_waiting(dataset) == []
    with pytest.raises(UserError, match="No row was edited"):
        dataset_repair(dataset=dataset, by=alice, repair="apply_changes")


def test_a_row_that_was_set_aside_stays_on_record_and_can_be_put_back(checked, alice, apply, page):
    dataset = checked(lines(*(PAIR | {"n": number} for number in range(4))))
    rows_set_aside(dataset=dataset, by=alice, lines=[2])
    second = apply(dataset)
    rows_set_aside(dataset=second, by=alice, lines=[1])
    third = apply(second)
    assert [row["n"] for row in rows_of(third)] == [2, 3]

    shown = markup(page.get(third.get_absolute_url()))
    assert "still on record" in shown
    aside = {change.dataset: change for change in rows_aside(third, alice)}
    assert set(aside) == {dataset, second}
    page.post(f"{third.get_absolute_url()}put-back/", {"change": aside[dataset].pk})
    assert [change.pk for change in rows_aside(third, alice)] == [aside[second].pk]

    fourth = apply(third)
    assert [row["n"] for row in rows_of(fourth)] == [2, 3, 1]
    assert [change.pk for change in rows_aside(fourth, alice)] == [aside[second].pk]
    with pytest.raises(UserError, match="not among those"):
        row_put_back(dataset=fourth, by=alice, change=aside[dataset].pk)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        (PAIR | {"answer": ""}, "values.answer"),
        (PAIR | {"question": None}, "values.question"),
        ({}, "values.question"),
        (PAIR | {"answer": float("nan")}, "values"),
        (PAIR | {"answer": "x" * 300_000}, "values"),
    ],
)
def test_an_edit_is_held_to_what_the_check_holds_rows_to(checked, alice, values, field):
    dataset = checked(lines(PAIR))
    with pytest.raises(UserError) as caught:
        row_edit(dataset=dataset, by=alice, line=1, values=values)
    assert [*caught.value.fields] == [field]
    assert changes_waiting(dataset) == []


def test_rows_that_are_not_there_and_rows_of_others_are_not_changed(checked, alice, bob):
    dataset, house = checked(lines(PAIR)), checked(lines(PAIR))
    Dataset.objects.filter(pk=house.pk).update(shared=True)
    for line in (0, 2, -1, 2**70):
        with pytest.raises(UserError, match="no row on line") as caught:
            rows_set_aside(dataset=dataset, by=alice, lines=[line])
        assert caught.value.status == 404
    for target in (dataset, house):
        with pytest.raises(PermissionDenied):
            rows_set_aside(dataset=target, by=bob, lines=[1])
        with pytest.raises(PermissionDenied):
            row_edit(dataset=target, by=bob, line=1, values=PAIR)


def test_not_more_changes_wait_than_a_page_can_hold(checked, alice, monkeypatch):
    monkeypatch.setattr(row_changes, "WAITING_LIMIT", 2)
    dataset = checked(lines(*(PAIR | {"n": number} for number in range(4))))
    rows_set_aside(dataset=dataset, by=alice, lines=[1, 2])
    with pytest.raises(UserError, match="At most 2"):
        rows_set_aside(dataset=dataset, by=alice, lines=[3])


def test_the_editor_shows_each_turn_and_keeps_what_was_not_touched(page, checked, apply):
    dataset = checked(lines(CHAT))
    url = f"/datasets/{dataset.pk}/rows/1/"
    shown = markup(page.get(url))
    for name in (
        "column-messages.0",
        "role-messages.2",
        "drop-messages.1",
        "column-source",
        "column-score",
    ):
        assert f'name="{name}"' in shown

    typed = {
        "role-messages.0": "system",
        "column-messages.0": "Be kind.",
        "drop-messages.0": "on",
        "role-messages.1": "user",
        "column-messages.1": "Where is it?",
        "role-messages.2": "assistant",
        "column-messages.2": "At the\r\ndepot.",
        "role-messages.3": "user",
        "column-messages.3": "Thanks.\r\nBye.",
        "role-messages.4": "assistant",
        "column-messages.4": "You are welcome.",
        "column-source": "mail",
        "column-score": "0.75",
    }
    assert page.post(url, typed).status_code == 302
    (row,) = rows_of(apply(dataset))
    assert row == {
        "messages": [
            {"role": "user", "content": "Where is it?", "name": "ann"},
            {"role": "assistant", "content": "At the\r\ndepot."},
            {"role": "user", "content": "Thanks.\nBye."},
            {"role": "assistant", "content": "You are welcome."},
        ],
        "source": "mail",
        "score": 0.75,
    }


def as_a_browser_sends_it(response):
    """{name: value} of the page's row form, untouched."""
    form = BeautifulSoup(response.content.decode(), "html.parser").select_one("form:has(textarea)")
    sent = {
        area["name"]: typed(area.get_text()).replace("\n", "\r\n")
        for area in form.select("textarea")
    }
    for choice in form.select("select"):
        chosen = choice.select_one("[selected]") or choice.select_one("option")
        sent[choice["name"]] = chosen.get("value", chosen.get_text())
    return sent


def test_a_row_saved_as_it_opens_is_the_same_row(page, checked):
    for row in (CHAT, PAIR, {"text": "\n  Two leading spaces,\n<b>and</b> an end. "}):
        dataset = checked(lines(row))
        url = f"/datasets/{dataset.pk}/rows/1/"
        sent = as_a_browser_sends_it(page.get(url))
        assert sent
        page.post(url, sent)
        assert dataset.row_changes.get().values == row


def test_what_is_wrong_stands_beside_its_turn_or_column_and_what_was_typed_stays(page, checked):
    chats, pairs = checked(lines(CHAT)), checked(lines(PAIR))

    answer = page.post(f"/datasets/{chats.pk}/rows/1/", {"column-messages.2": " "})
    assert answer.status_code == 400
    turn = answer.context["controls"][0].turns[2]
    assert (turn.errors, turn.content) == (["Is blank; a text is needed."], " ")

    answer = page.post(
        f"/datasets/{pairs.pk}/rows/1/", {"column-tags": "[1,", "column-answer": "New."}
    )
    assert answer.status_code == 400
    (tags,) = [control for control in answer.context["controls"] if control.name == "tags"]
    assert "not valid JSON" in tags.errors[0]


@pytest.mark.parametrize("line", [2, 3, 99])
def test_rows_that_cannot_be_edited_say_so(page, checked, line):
    dataset = checked(lines(PAIR) + b"{broken\n" + lines(PAIR | {"answer": "x" * 300_000}))
    answer = page.get(f"/datasets/{dataset.pk}/rows/{line}/", follow=True)
    if line == 99:
        assert answer.status_code == 404
    else:
        assert "cannot be edited here" in markup(answer)


def test_changes_wait_on_the_page_and_are_taken_back(page, checked):
    dataset = checked(lines(*(PAIR | {"n": number} for number in range(3))))
    url = dataset.get_absolute_url()
    page.post(f"{url}set-aside/", {"line": "1"})
    page.post(f"{url}set-aside/", {"line": "3"})
    shown = markup(page.get(url))
    assert "2 changed rows" in shown
    assert 'value="apply_changes"' in shown

    page.post(f"{url}discard/", {"change": dataset.row_changes.first().pk})
    assert [change.line for change in changes_waiting(dataset)] == [3]
    page.post(f"{url}discard/")
    assert changes_waiting(dataset) == []
    back = page.post(f"{url}set-aside/", {"line": "1", "finding": "duplicate", "row": "2"})
    assert back["Location"] == f"{url}?finding=duplicate&row=2#finding-duplicate"


def test_the_api_edits_sets_aside_puts_back_and_takes_back(api, checked, bob):
    dataset = checked(lines(*(PAIR | {"n": number} for number in range(3))))
    url = f"/api/v1/datasets/{dataset.slug}"
    assert api.get(f"{url}/rows/2/").json()["values"] == PAIR | {"n": 1}
    assert (
        api.put(f"{url}/rows/2/", {"values": PAIR | {"n": 7}}, format="json").json()["action"]
        == "edit"
    )
    refused = api.put(f"{url}/rows/2/", {"values": {"question": ""}}, format="json")
    assert (refused.status_code, [*refused.json()["error"]["fields"]]) == (400, ["values.question"])
    assert api.post(f"{url}/changes/", {"set_aside": [1, 3]}, format="json").status_code == 201
    for body in (
        {},
        {"set_aside": [1], "put_back": 1},
        {"set_aside": ["x"]},
        [1],
        {"set_aside": 1},
    ):
        assert api.post(f"{url}/changes/", body, format="json").status_code == 400
    waiting = api.get(f"{url}/changes/").json()["waiting"]
    assert [(item["line"], item["action"]) for item in waiting] == [
        (1, "set_aside"),
        (2, "edit"),
        (3, "set_aside"),
    ]
    assert api.delete(f"{url}/changes/{waiting[0]['id']}/").status_code == 204
    assert api.delete(f"{url}/changes/{waiting[0]['id']}/").status_code == 404

    (made,) = api.post(f"{url}/repairs/", {"repair": "apply_changes"}).json()
    dataset_check(made["id"])
    aside = api.get(f"/api/v1/datasets/{made['id']}/changes/").json()["set_aside"]
    assert [item["line"] for item in aside] == [3]
    back = api.post(
        f"/api/v1/datasets/{made['id']}/changes/", {"put_back": aside[0]["id"]}, format="json"
    )
    assert back.json()[0]["values"] == PAIR | {"n": 2}
    assert api.delete(f"/api/v1/datasets/{made['id']}/changes/").status_code == 204

    api.force_authenticate(bob)
    for method, path in (
        ("get", "rows/1/"),
        ("put", "rows/1/"),
        ("get", "changes/"),
        ("get", "search/"),
    ):
        assert getattr(api, method)(f"{url}/{path}").status_code == 404


def test_rows_are_searched_page_by_page(page, api, checked):
    dataset = checked(
        lines(
            *(
                PAIR | {"question": f"Parcel <{number}> {'LATE' if number % 2 else ''}"}
                for number in range(60)
            )
        )
    )
    found = markup(page.get(f"{dataset.get_absolute_url()}?search=late"))
    assert "<strong>30</strong> rows of the 60 that were read hold it" in found
    assert found.count('<mark class="offending">LATE</mark>') == 10
    assert "Parcel &lt;1&gt;" in found

    seen, after = [], ""
    while after is not None:
        body = api.get(
            f"/api/v1/datasets/{dataset.pk}/search/", {"text": "late", "after": after}
        ).json()
        seen += [row["line"] for row in body["results"]]
        after = body["next"] or None
    assert seen == [*range(2, 61, 2)]
    assert "None of the 60 rows" in markup(page.get(f"{dataset.get_absolute_url()}?search=nowhere"))


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("--help", ""),
        ("-x", "nonsense"),
        ("a\x00b", "0-0-3"),
        ("“", "999-999-999999"),
        ("\ud800zz", "1-1-1"),
        (" ", "-"),
    ],
)
def test_no_search_breaks(checked, text, after):
    assert rows_search(checked(lines(PAIR)), text, after).rows == []

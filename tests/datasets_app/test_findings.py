"""A finding, its rows and its repair in one place, on the page and in the API alike."""

import json

import pytest
from rest_framework.test import APIClient

from datasets_app.bad_rows import field_words
from datasets_app.checking import dataset_check
from datasets_app.findings import findings_of
from datasets_app.highlights import Highlight, highlighted
from datasets_app.models import Dataset
from engine.doctor.finding_kinds import SEVERITY_WORDS
from tests.markup import markup


def chat(*turns):
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


GOOD = chat(("user", "Where is my parcel?"), ("assistant", "At the depot."))
# {kind: rows of which the last one has the finding, and what is marked in it}
CASES = {
    "two_turns": (
        [GOOD, chat(("user", "Late."), ("user", "Hello?"), ("assistant", "Yes."))],
        "Hello?",
    ),
    "ends_with_user": (
        [GOOD, chat(("user", "Q"), ("assistant", "A"), ("user", "And then?"))],
        "And then?",
    ),
    "system_later": (
        [GOOD, chat(("user", "Q"), ("system", "Be kind."), ("assistant", "A"))],
        "Be kind.",
    ),
    "begins_with_assistant": (
        [GOOD, chat(("assistant", "Hi!"), ("user", "Q"), ("assistant", "A"))],
        "Hi!",
    ),
    "secret": ([GOOD, chat(("user", "password: hunter2"), ("assistant", "Thanks."))], "hunter2"),
    "email": (
        [GOOD, chat(("user", "I am ann.lee@example.org"), ("assistant", "Hi."))],
        "ann.lee@example.org",
    ),
    "template_tokens": (
        [GOOD, chat(("user", "<|im_start|>Q"), ("assistant", "A"))],
        "&lt;|im_start|&gt;",
    ),
    "damaged": ([GOOD, chat(("user", "CafÃ©?"), ("assistant", "Yes."))], "Ã©"),
    "lost": ([GOOD, chat(("user", "Caf\ufffd?"), ("assistant", "Yes."))], "\ufffd"),
    "media_marks": (
        [GOOD, chat(("user", "<image>What?"), ("assistant", "A cat."))],
        "&lt;image&gt;",
    ),
    "duplicate": ([GOOD, GOOD], ""),
    "other_answer": ([GOOD, chat(("user", "Where is my parcel?"), ("assistant", "Gone."))], ""),
}


@pytest.fixture
def dataset_of(checked):
    def make(rows, **values) -> Dataset:
        return checked("".join(json.dumps(row) + "\n" for row in rows).encode(), **values)

    return make


@pytest.fixture
def api(alice):
    client = APIClient()
    client.force_authenticate(alice)
    return client


@pytest.mark.parametrize("kind", CASES)
def test_a_finding_opens_to_its_row_with_the_part_it_is_about_and_to_its_repair(
    client, alice, dataset_of, kind
):
    rows, part = CASES[kind]
    dataset = dataset_of(rows)
    client.force_login(alice)

    (finding,) = [item for item in findings_of(dataset) if item.key == kind]
    assert finding.lines == [2]
    panel = markup(client.get(f"/datasets/{dataset.pk}/findings/{kind}/"))
    assert "Line 2" in panel
    assert "Set aside" in panel
    if kind in ("two_turns", "ends_with_user", "system_later", "begins_with_assistant"):
        bad = panel.partition("bubble-bad")[2].partition("</div>")[0]
        assert part in bad
    elif part:
        assert f'<mark class="offending">{part}</mark>' in panel
    for repair in finding.repairs:
        assert f'value="{repair.slug}"' in panel


@pytest.mark.parametrize("kind", CASES)
def test_what_the_repair_promises_for_a_row_is_what_it_makes_of_it(api, dataset_of, kind):
    dataset = dataset_of(CASES[kind][0])
    url = f"/api/v1/datasets/{dataset.slug}"
    shown = api.get(f"{url}/doctor/{kind}/").json()
    (finding,) = [
        item for item in api.get(f"{url}/doctor/").json()["faults"] if item["key"] == kind
    ]
    if not finding["repairs"]:
        assert (shown["outcome"], shown["after"]) == ("", None)
        return

    (made,) = api.post(f"{url}/repairs/", {"repair": finding["repairs"][0]["slug"]}).json()
    dataset_check(made["id"])
    results = api.get(f"/api/v1/datasets/{made['slug']}/rows/").json()["results"]
    if shown["outcome"] == "left_out":
        assert len(results) == 1
    else:
        assert shown["outcome"] == "changed"
        assert results[1]["values"] == shown["after"]["values"]
        assert results[1]["problem"] is None


def test_findings_stand_in_the_order_in_which_they_matter_with_icon_and_word(
    client, alice, dataset_of
):
    dataset = dataset_of([row for rows, _ in CASES.values() for row in rows])
    client.force_login(alice)
    page = markup(client.get(dataset.get_absolute_url()))

    order = [finding.severity for finding in findings_of(dataset)]
    assert order == sorted(order, key=list(SEVERITY_WORDS).index)
    assert set(order) == set(SEVERITY_WORDS)
    for word in SEVERITY_WORDS.values():
        assert f'aria-label="{word}"' in page
        assert f">{word}</span>" in page


def test_bad_rows_are_told_apart_by_their_reason(dataset_of):
    rows = [
        GOOD,
        chat(("user", "Q"), ("assistant", "")),
        {"messages": []},
        {"messages": []},
        {"other": 1},
    ]
    views = {view.title: view for view in findings_of(dataset_of(rows))}

    assert (views["Empty text"].lines, views["No turns"].lines) == ([2], [3, 4])
    assert sum(view.count for view in views.values()) == 4
    assert all(view.repairs[0].slug == "drop_bad" for view in views.values())


def test_rows_of_a_finding_are_walked_through_one_by_one(client, alice, dataset_of):
    dataset = dataset_of([GOOD] * 4)
    client.force_login(alice)
    url = f"{dataset.get_absolute_url()}?finding=duplicate"

    first, last = (markup(client.get(f"{url}&row={row}")) for row in (1, 99))
    assert "1 of 3" in first
    assert "Previous row" not in first
    assert 'href="?finding=duplicate&amp;row=2#finding-duplicate"' in first
    assert "3 of 3" in last
    assert "Next row" not in last
    assert "the first one that says the same stays" in first


def test_a_finding_that_is_none_is_not_found(client, alice, bob, api, dataset_of):
    dataset = dataset_of([GOOD])
    client.force_login(alice)
    assert client.get(f"/datasets/{dataset.pk}/findings/duplicate/").status_code == 404
    assert client.get(f"{dataset.get_absolute_url()}?finding=<script>").status_code == 200
    assert api.get(f"/api/v1/datasets/{dataset.pk}/doctor/nonsense/").status_code == 404
    client.force_login(bob)
    assert client.get(f"/datasets/{dataset.pk}/findings/duplicate/").status_code == 404


def test_who_may_not_change_a_dataset_sees_rows_and_no_buttons(client, bob, dataset_of):
    dataset = dataset_of([GOOD, GOOD])
    Dataset.objects.filter(pk=dataset.pk).update(shared=True)
    client.force_login(bob)
    page = markup(client.get(f"{dataset.get_absolute_url()}?finding=duplicate"))

    assert "1 of 1" in page
    for words in ("Set aside", "Edit row", "Make all safe repairs", 'name="repair"'):
        assert words not in page


def test_a_file_that_is_gone_is_said_in_the_finding(client, alice, dataset_of):
    dataset = dataset_of([GOOD, GOOD])
    dataset.path.unlink()
    client.force_login(alice)

    panel = client.get(f"/datasets/{dataset.pk}/findings/duplicate/")
    assert panel.status_code == 200
    assert "notice" in markup(panel)


@pytest.mark.parametrize(
    ("text", "search", "wanted"),
    [
        ("<b>Tom</b> & tom", "tom", "&lt;b&gt;<mark>Tom</mark>&lt;/b&gt; &amp; <mark>tom</mark>"),
        ("a.c abc", "a.c", "<mark>a.c</mark> abc"),
        ("nothing", "x", "nothing"),
    ],
)
def test_marks_stand_around_what_is_searched_for_and_nothing_is_html(text, search, wanted):
    assert highlighted(text, Highlight(search=search)) == wanted.replace(
        "<mark>", '<mark class="offending">'
    )


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("messages[2].content", "turn 2 of messages"),
        ("conversations[1]", "turn 1 of conversations"),
        ("messages[3].tool_calls", "tool_calls in turn 3 of messages"),
        ("question", "question"),
        ("task.words", "task.words"),
        ("", ""),
    ],
)
def test_a_field_is_named_as_people_count(field, words):
    assert field_words(field) == words


def test_a_bad_turn_is_named_in_words(dataset_of):
    bad = chat(("user", "Q"), ("assistant", " "))
    (finding,) = findings_of(dataset_of([GOOD, bad]))
    assert finding.explanation == "A turn or a column has nothing in it that can be seen."
    odd = {"messages": [*GOOD["messages"], {"role": "wizard", "content": "Hm"}]}
    (finding,) = findings_of(dataset_of([GOOD, odd]))
    assert finding.explanation == "First in role in turn 3 of messages."

"""Search over everything, and the menu that leads everywhere."""

from __future__ import annotations

import pytest
from bs4 import BeautifulSoup
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from datasets_app.models import Dataset
from methods.services import methods_install
from models_app.models import BaseModel
from training.pages.search import MOST_OF_A_KIND, PAGES, search_everything


def titles(groups: list[dict], kind: str) -> list[str]:
    return [hit["title"] for group in groups if group["kind"] == kind for hit in group["hits"]]


@pytest.fixture
def ask(client, alice):
    client.force_login(alice)

    def get(text: str) -> list[dict]:
        answer = client.get("/api/v1/search/", {"q": text})
        assert answer.status_code == 200, answer.content
        return answer.json()

    return get


def test_it_finds_every_kind_by_part_of_a_name(ask, make_train):
    make_train(name="tiny-toys-lora")
    methods_install()
    found = ask("t")
    assert [group["kind"] for group in found] == [
        "trains",
        "datasets",
        "models",
        "methods",
        "pages",
    ]
    assert titles(ask("toys"), "datasets") == ["Toys"]
    assert titles(ask("tiny"), "models") == ["Tiny"]
    assert "LoRA" in titles(ask("lora"), "methods")
    assert titles(ask("compare"), "pages") == ["Compare trains"]


def test_the_best_hit_comes_first(ask, make_train):
    first = make_train(name="about-alpha")
    make_train(name="alpha-one")
    for number in range(3):
        make_train(name=f"about-{number}")
    assert titles(ask("alpha"), "trains") == ["alpha-one", "about-alpha"]
    assert titles(ask(f"#{first.pk}"), "trains")[0] == "about-alpha"
    assert titles(ask(str(first.pk)), "trains")[0] == "about-alpha"


def test_several_words_may_stand_in_any_order(ask, make_train):
    make_train(name="support-qwen-lora-r16")
    make_train(name="support-smol")
    assert titles(ask("r16 support"), "trains") == ["support-qwen-lora-r16"]


def test_there_are_a_few_of_a_kind_and_a_way_to_all(ask, make_train):
    for number in range(MOST_OF_A_KIND + 1):
        make_train(name=f"many & {number}")
    (group,) = [group for group in ask("many & ") if group["kind"] == "trains"]
    assert len(group["hits"]) == MOST_OF_A_KIND
    assert group["more"] == "/trains/?search=many%20%26"


def test_nothing_of_a_stranger_is_found(client, bob, make_train, alice):
    run = make_train(name="canary-train")
    run.labels.create(name="canary-label")
    Dataset.objects.filter(owner=alice).update(name="canary-data")
    BaseModel.objects.update(name="canary-model", owner=alice, shared=False)
    client.force_login(bob)
    assert client.get("/api/v1/search/", {"q": "canary"}).json() == []
    assert client.get("/api/v1/search/", {"q": f"#{run.pk}"}).json() == []


def test_archived_things_and_pages_of_operators_stay_away(ask, client, olga, make_train):
    make_train()
    Dataset.objects.update(archived_at="2026-01-01T00:00:00Z")
    assert titles(ask("toys"), "datasets") == []
    assert titles(ask("administration"), "pages") == []
    client.force_login(olga)
    assert titles(client.get("/api/v1/search/?q=administration").json(), "pages") == [
        "Administration"
    ]


@pytest.mark.parametrize(
    "text", ["", "   ", "%", "_", "#", "#999999999999999999999", "'; --", "ß" * 100]
)
def test_odd_questions_are_answered(ask, make_train, text):
    make_train(name="plain")
    assert titles(ask(text), "trains") == []


def test_too_long_a_question_is_refused(client, alice):
    client.force_login(alice)
    assert client.get("/api/v1/search/", {"q": "x" * 101}).status_code == 400
    assert client.get("/api/v1/search/", {"q": "a\x00"}).status_code == 400


def test_its_queries_do_not_grow_with_what_there_is(alice, make_train):
    counts = []
    # What somebody may do is asked once and then remembered.
    search_everything(user=alice, text="many")
    for _ in range(2):
        for number in range(5):
            make_train(name=f"many-{number}")
        with CaptureQueriesContext(connection) as queries:
            search_everything(user=alice, text="many")
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 8


def test_ten_thousand_trains_are_searched_by_one_query_that_reads_few_columns(alice, make_train):
    run = make_train(name="first")
    for number in range(2000):
        run.pk = run.number = run.job_id = None
        run.name = f"train-{number}"
        run._state.adding = True
        run.save()
    with CaptureQueriesContext(connection) as queries:
        groups = search_everything(user=alice, text="train-19")
    (trains,) = [group for group in groups if group.kind == "trains"]
    assert trains.hits[0].title == "train-1999"
    about_trains = [query["sql"] for query in queries if 'FROM "training_trainrun"' in query["sql"]]
    assert len(about_trains) == 1
    for wide in ("parameters", "curve", "facts"):
        assert f'"training_trainrun"."{wide}"' not in about_trains[0]


def test_every_page_that_is_offered_opens(client, olga):
    client.force_login(olga)
    for _, icon, name, _, _ in PAGES:
        assert client.get(reverse(name)).status_code == 200, name
        assert icon


@pytest.mark.parametrize(
    ("path", "here"),
    [
        ("/trains/", "Model Training"),
        ("/trains/new/", "Model Training"),
        ("/trains/queue/", "Queue"),
        ("/trains/compare/", "Compare"),
        ("/datasets/", "Datasets"),
        ("/methods/", "Methods"),
    ],
)
def test_the_menu_marks_the_page_that_is_open_and_no_other(client, alice, path, here):
    client.force_login(alice)
    page = BeautifulSoup(client.get(path).content, "html.parser")
    marked = [link.get_text(" ", strip=True) for link in page.select(".side-link[aria-current]")]
    assert [text.removesuffix(" 0 running") for text in marked] == [here]
    assert page.select_one("#search-dialog")["data-url"] == "/api/v1/search/"

"""Pages of datasets: what they show, what they escape, who may do what, and that they work without
scripts."""

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from core import tokenizers
from core.tokenizers import Tokenizer
from datasets_app.checking import dataset_check
from datasets_app.models import Dataset, TokenLengths
from tests.datasets_app.conftest import GOOD
from tests.datasets_app.test_services import temporary_files, use
from tests.markup import HTMX, no_cache_mixes


@pytest.fixture
def page(client, alice) -> Client:
    client.force_login(alice)
    return client


def text(answer) -> str:
    assert answer.status_code == 200
    return answer.content.decode()


def test_an_empty_list_says_what_to_do_next(page):
    found = text(page.get("/datasets/"))

    assert "Upload your first dataset" in found
    assert "What a row can look like" in found


def test_the_list_shows_state_problems_and_labels(page, checked, upload):
    checked(GOOD + b"{broken\n", name="spiders.jsonl", labels=["zoo"])
    upload(name="waiting.jsonl")
    checked(b'{"a": 1}', name="odd.jsonl")
    found = text(page.get("/datasets/"))

    for words in (
        "spiders",
        "1 row left out",
        "Question and answer",
        "zoo",
        "Checking",
        "Cannot be used",
    ):
        assert words in found
    assert "spiders" not in text(page.get("/datasets/?search=odd"))
    assert "No dataset matches" in text(page.get("/datasets/?search=nowhere"))
    assert "Nothing is archived" in text(page.get("/datasets/?archived=true"))
    assert "spiders" in text(page.get("/datasets/?label=zoo&ordering=-row_count&page=99"))
    # What no choice offers narrows nothing and breaks nothing.
    assert page.get("/datasets/?status=nonsense&ordering=password&format=%00").status_code == 200


def test_a_list_takes_as_many_queries_for_ten_as_for_one(
    page, checked, django_assert_max_num_queries
):
    for number in range(8):
        checked(labels=["a", f"b{number}"])
    with django_assert_max_num_queries(14):
        page.get("/datasets/")


def test_an_upload_without_scripts(page):
    answer = page.post(
        "/datasets/new/",
        {"file": SimpleUploadedFile("rows.jsonl", GOOD), "name": "", "labels": "a, b"},
    )

    dataset = Dataset.objects.get()
    assert answer.status_code == 302
    assert answer["Location"] == dataset.get_absolute_url() == f"/datasets/{dataset.pk}/"
    assert (dataset.name, dataset.owner.username) == ("rows", "alice")
    assert sorted(label.name for label in dataset.labels.all()) == ["a", "b"]


def test_an_upload_that_is_refused_keeps_what_was_written_and_says_why(page, settings):
    answer = page.post(
        "/datasets/new/", {"file": SimpleUploadedFile("rows.jsonl", b""), "name": "My <rows>"}
    )
    assert answer.status_code == 400
    assert "The file is empty" in answer.content.decode()
    assert "My &lt;rows&gt;" in answer.content.decode()
    assert "Choose a file." in page.post("/datasets/new/", {"name": "x"}).content.decode()

    settings.UPLOAD_LIMIT_BYTES = 10
    answer = page.post("/datasets/new/", {"file": SimpleUploadedFile("rows.jsonl", GOOD)})
    assert answer.status_code == 413
    assert "the most that can be uploaded" in answer.content.decode()
    assert temporary_files() == []
    assert not Dataset.objects.exists()


def test_an_upload_needs_its_token_and_a_person(alice):
    strict = Client(enforce_csrf_checks=True)
    body = {"file": SimpleUploadedFile("rows.jsonl", GOOD)}
    assert strict.post("/datasets/new/", body)["Location"].startswith("/login/")
    strict.force_login(alice)
    body["file"].seek(0)
    assert strict.post("/datasets/new/", body).status_code == 403
    token = strict.get("/datasets/new/").context["csrf_token"]
    body["file"].seek(0)
    assert (
        strict.post("/datasets/new/", body | {"csrfmiddlewaretoken": str(token)}).status_code == 302
    )
    assert temporary_files() == []


def test_a_page_shows_rows_as_the_model_sees_them_and_escapes_them(page, checked):
    dataset = checked(
        b'{"messages": [{"role": "user", "content": "<script>alert(1)</script>"},'
        b' {"role": "assistant", "content": "A"}]}\n'
        b'{"messages": []}\n'
    )
    found = text(page.get(f"/datasets/{dataset.pk}/"))

    assert "<script>alert(1)" not in found
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in found
    assert "50%" in found
    assert "Has no turns." in found
    assert f"?dataset={dataset.pk}" in found
    assert "&quot;role&quot;: &quot;user&quot;" in text(
        page.get(f"/datasets/{dataset.pk}/?view=raw")
    )


def test_pages_of_rows_and_of_problems(page, checked):
    dataset = checked(GOOD * 12 + b"{broken\n" * 30)
    found = text(page.get(f"/datasets/{dataset.pk}/?page=3&problems=2"))

    assert "11–15 of 42" in found
    assert "21–30 of 30" in found
    assert text(page.get(f"/datasets/{dataset.pk}/?page=nonsense&problems=-1"))


def test_a_page_in_the_middle_of_a_check_shows_how_far_it_is(page, upload):
    dataset = upload()
    Dataset.objects.filter(pk=dataset.pk).update(checked_bytes=dataset.size_bytes // 2)
    found = text(page.get(f"/datasets/{dataset.pk}/"))

    assert "Checking the rows" in found
    assert f'hx-get="/datasets/{dataset.pk}/"' in found
    assert "Train with this" not in found


def test_pages_ask_again_while_a_dataset_is_checked(page, upload):
    dataset = upload()
    path = dataset.get_absolute_url()
    for address, part in (("/datasets/", "<tbody"), (path, "<section")):
        assert f'hx-get="{address}"' in text(page.get(address))
        found = text(page.get(address, headers=HTMX))
        assert part in found[:200]
        assert "<html" not in found
        assert no_cache_mixes(page, address)

    dataset_check(dataset.pk)
    assert "hx-get" not in text(page.get("/datasets/", headers=HTMX))
    assert page.get(path, headers=HTMX).headers["HX-Refresh"] == "true"
    left = page.get("/datasets/?status=checking", headers=HTMX)
    assert left.headers["HX-Refresh"] == "true"


def test_columns_that_fit_nothing_can_be_named_on_the_page(page, checked):
    dataset = checked(b"frage;antwort\nq;a\n", "german.csv")
    found = text(page.get(f"/datasets/{dataset.pk}/"))
    assert "Say which column is which" in found
    assert 'name="column-question"' in found
    assert 'name="column-instruction"' in text(page.get(f"/datasets/{dataset.pk}/?format=alpaca"))

    wrong = page.post(
        f"/datasets/{dataset.pk}/columns/",
        {"format": "question-answer", "column-question": "frage"},
        follow=True,
    )
    assert "which column of the file is answer" in text(wrong)
    page.post(
        f"/datasets/{dataset.pk}/columns/",
        {"format": "question-answer", "column-question": "frage", "column-answer": "antwort"},
    )
    dataset.refresh_from_db()
    assert (dataset.status, dataset.column_map) == (
        "checking",
        {"question": "frage", "answer": "antwort"},
    )


def test_columns_that_were_guessed_can_be_read_otherwise(page, checked):
    dataset = checked(b'{"question": "q", "answer": "a", "system": "s", "better": "b"}\n')
    assert dataset.column_map == {"question": "question", "answer": "answer", "system": "system"}
    found = text(page.get(f"/datasets/{dataset.pk}/"))
    assert "Change how they are read" in found
    assert '<option value="system" selected>' in found

    chosen = {"column-question": "question", "column-answer": "better", "column-system": ""}
    page.post(f"/datasets/{dataset.pk}/columns/", {"format": "question-answer"} | chosen)
    dataset_check(dataset.pk)
    dataset.refresh_from_db()
    assert dataset.column_map == {"question": "question", "answer": "better", "system": ""}
    assert [item["name"] for item in dataset.unused] == ["answer", "system"]
    assert '<option value="better" selected>' in text(page.get(f"/datasets/{dataset.pk}/"))


def test_token_lengths_are_drawn_once_they_are_counted(page, checked, monkeypatch):
    found = text(page.get(f"/datasets/{checked().pk}/"))
    assert "there is no base model yet" in found

    monkeypatch.setattr(
        tokenizers,
        "_sources",
        [lambda user: [Tokenizer("tiny", "Tiny", "ab", "/a"), Tokenizer("big", "Big", "cd", "/b")]],
    )
    dataset = checked()
    waiting = text(page.get(f"/datasets/{dataset.pk}/lengths/"))
    assert "Counting in the background" in waiting
    assert f'hx-get="/datasets/{dataset.pk}/lengths/?model=tiny" hx-trigger="every' in waiting
    TokenLengths.objects.filter(dataset=dataset, tokenizer="ab").update(
        ready=True, rows={"10": 30, "300": 2}
    )
    found = text(page.get(f"/datasets/{dataset.pk}/lengths/?model=tiny"))
    assert '<svg class="histogram"' in found
    assert "every" not in found
    assert "tokens: 30 rows" in found
    assert "style=" not in found
    assert "chat template" not in found

    notes = {
        "rendered": 31,
        "refused": 1,
        "refusals": [[7, "It <calls> two tools."]],
        "findings": {"thinking_only_last": {"rows": 3, "lines": [2, 5]}},
    }
    TokenLengths.objects.filter(dataset=dataset, tokenizer="ab").update(notes=notes)
    found = text(page.get(f"/datasets/{dataset.pk}/lengths/?model=tiny"))
    assert "1 of 32 rows is left out" in found
    assert "Line 7: It &lt;calls&gt; two tools." in found
    assert "In 3 of 32 rows the thinking of earlier answers is not learned" in found
    assert "First: line 2, line 5." in found
    assert "Counting in the background" in text(
        page.get(f"/datasets/{dataset.pk}/lengths/?model=big")
    )
    TokenLengths.objects.filter(dataset=dataset, tokenizer="cd").update(
        error="The template <loops>."
    )
    assert "The template &lt;loops&gt;." in text(
        page.get(f"/datasets/{dataset.pk}/lengths/?model=big")
    )


def test_names_labels_and_description_are_edited(page, checked):
    dataset = checked(labels=["old"])
    assert 'value="old"' in text(page.get(f"/datasets/{dataset.pk}/edit/"))

    assert page.post(f"/datasets/{dataset.pk}/edit/", {"name": "", "labels": ""}).status_code == 400
    page.post(
        f"/datasets/{dataset.pk}/edit/", {"name": "New", "description": "Words", "labels": "x, y"}
    )
    dataset.refresh_from_db()
    assert (dataset.name, dataset.description, dataset.labels.count()) == ("New", "Words", 2)


def test_archive_restore_download_and_delete(page, checked):
    dataset = checked()
    url = f"/datasets/{dataset.pk}/"

    page.post(f"{url}archive/")
    assert "Take out of the archive" in text(page.get(url))
    page.post(f"{url}restore/")
    assert b"".join(page.get(f"{url}file/").streaming_content) == GOOD
    # Without a script a page asks first.
    assert "This cannot be undone" in text(page.post(f"{url}delete/"))
    assert Dataset.objects.exists()
    assert page.post(f"{url}delete/", {"sure": "1"})["Location"] == "/datasets/"
    assert not Dataset.objects.exists()


def test_one_that_a_train_used_offers_the_archive_alone(page, checked):
    dataset = checked()
    use(dataset)
    found = text(page.get(f"/datasets/{dataset.pk}/"))

    assert "1 train" in found
    assert f"/datasets/{dataset.pk}/delete/" not in found
    assert "Archive it instead" in text(
        page.post(f"/datasets/{dataset.pk}/delete/", {"sure": "1"}, follow=True)
    )


@pytest.mark.parametrize("path", ["", "lengths/", "edit/", "file/"])
def test_a_stranger_finds_no_page(client, bob, checked, path):
    client.force_login(bob)

    assert client.get(f"/datasets/{checked().pk}/{path}").status_code == 404


@pytest.mark.parametrize("path", ["edit/", "columns/", "archive/", "restore/", "delete/"])
def test_what_belongs_to_others_is_not_changed(client, bob, checked, path):
    client.force_login(bob)
    mine, house = checked(), checked(owner=None, shared=True)

    assert client.post(f"/datasets/{mine.pk}/{path}").status_code == 404
    assert client.post(f"/datasets/{house.pk}/{path}").status_code == 403
    assert text(client.get(f"/datasets/{house.pk}/"))
    assert client.get(f"/datasets/{'9' * 30}/").status_code == 404


def test_operators_look_archive_and_delete_through_the_services(client, olga, checked):
    client.force_login(olga)
    dataset, used = checked(), checked(b'{"text": "a"}', name="used.jsonl")
    use(used)
    url = "/admin/datasets_app/dataset/"

    assert "used" in text(client.get(f"{url}?q=used&format=text&status=ready"))
    client.post(url, {"action": "archive", "_selected_action": [dataset.pk, used.pk]})
    assert Dataset.objects.exclude(archived_at=None).count() == 2
    client.post(url, {"action": "restore", "_selected_action": [dataset.pk]})
    assert Dataset.objects.exclude(archived_at=None).count() == 1
    found = text(client.get(f"{url}{dataset.pk}/change/"))
    for field in ("status", "sha256", "row_count", "owner", "slug"):
        assert f'name="{field}"' not in found
    client.post(
        f"{url}{dataset.pk}/change/", {"name": "Renamed", "description": "", "status": "failed"}
    )
    dataset.refresh_from_db()
    assert (dataset.name, dataset.status) == ("Renamed", "ready")
    assert client.post(f"{url}{used.pk}/delete/", {"post": "yes"}).status_code == 403
    client.post(f"{url}{dataset.pk}/delete/", {"post": "yes"})
    assert list(Dataset.objects.all()) == [used]


def test_the_page_names_what_is_not_used_and_how_rows_were_read(page, checked):
    turns = [
        {"role": "user", "content": "q", "time": 1},
        {"role": "assistant", "content": "a", "reasoning": "Hm."},
    ]
    rows = [{"messages": turns, "source": "book"}, {"messages": turns, "source": ""}]
    dataset = checked("".join(json.dumps(row) + "\n" for row in rows).encode())
    found = text(page.get(f"/datasets/{dataset.pk}/"))

    assert "100%" in found
    assert "<code>messages[].time</code>" in found
    assert '<code>source</code> <span class="faint">in 1 row</span>' in found
    assert "Rows with thinking given apart from the answer" in found
    assert "Hm." in found

    plain = text(page.get(f"/datasets/{checked().pk}/"))
    for words in ("Not used", "How the rows were read", "lists, and all are read"):
        assert words not in plain


def test_the_page_offers_a_dataset_of_each_list(page, checked):
    lists = {
        "train": [{"question": "q", "answer": "a"}] * 2,
        "test": [{"question": "r", "answer": "b"}],
    }
    dataset = checked(json.dumps(lists).encode(), "a.json")
    found = text(page.get(f"/datasets/{dataset.pk}/"))

    assert "The file holds 2 lists, and all are read:" in found
    assert 'value="split_lists"' in found


def test_the_page_says_why_pictures_cannot_be_trained_on(page, checked):
    row = {"question": "q", "answer": "a", "images": ["a.png"]}
    dataset = checked(json.dumps(row).encode())
    found = text(page.get(f"/datasets/{dataset.pk}/"))

    assert "Its rows hold pictures, sound or video, which cannot be trained on yet." in found
    assert "Keep the text alone" in found
    assert "Split off an evaluation set" not in found


def test_bad_rows_name_the_turn_that_is_wrong(client, alice, checked):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]
    rows = [{"messages": turns}, {"messages": [turns[0], {"role": "assistant", "content": "a"}]}]
    dataset = checked("".join(json.dumps(row) + "\n" for row in rows).encode())
    client.force_login(alice)
    page = client.get(f"/datasets/{dataset.pk}/").content.decode()
    assert "turn 2 of messages" in page
    assert "messages[2]" not in page

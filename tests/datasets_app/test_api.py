"""/api/v1/datasets/: shapes, filters, refusals, strangers."""

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from rest_framework.test import APIClient

from core.store import datasets_folder
from datasets_app.checking import dataset_check
from datasets_app.models import Dataset
from tests.datasets_app.conftest import GOOD
from tests.datasets_app.test_services import temporary_files, use

URL = "/api/v1/datasets/"


@pytest.fixture
def api(alice) -> APIClient:
    client = APIClient()
    client.force_authenticate(alice)
    return client


@pytest.fixture
def as_bob(bob) -> APIClient:
    client = APIClient()
    client.force_authenticate(bob)
    return client


def send(api, content=GOOD, name="rows.jsonl", **fields):
    return api.post(URL, {"file": SimpleUploadedFile(name, content), **fields}, format="multipart")


def test_an_upload_answers_201_with_the_dataset(api):
    answer = send(
        api,
        name="../../My rows.jsonl",
        description="About\r\nspiders",
        labels=["animals, english", "new"],
    )

    assert answer.status_code == 201
    body = answer.json()
    assert body["status"] == "checking"
    assert (body["name"], body["slug"], body["file_name"]) == (
        "My rows",
        "my-rows",
        "My rows.jsonl",
    )
    assert (body["description"], body["labels"]) == (
        "About\nspiders",
        ["animals", "english", "new"],
    )
    assert (body["owner"], body["progress"], body["size_bytes"]) == ("alice", 0.0, len(GOOD))
    assert body["url"] == f"/datasets/{body['id']}/"
    dataset_check(body["id"])

    body = api.get(f"{URL}{body['slug']}/").json()
    assert (body["status"], body["format"], body["row_count"], body["progress"]) == (
        "ready",
        "question-answer",
        1,
        1.0,
    )
    assert body["column_map"] == {"question": "question", "answer": "answer"}
    assert body["columns"][0] == {"name": "question", "type": "text"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n\n", "only blank lines"),
        ("a.parquet", b"not at all", "says Parquet"),
        ("a.csv", b'{"a": 1}\n', "the content is JSONL"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_a_file_that_is_none_is_refused_at_once(api, name, content, words):
    answer = send(api, content, name)

    assert answer.status_code == 400
    assert words in answer.json()["error"]["fields"]["file"][0]
    assert not Dataset.objects.exists()
    assert temporary_files() == []
    assert list(datasets_folder().glob("*")) == []


def test_an_upload_without_a_file_or_with_an_unknown_field_is_refused(api):
    assert "file" in api.post(URL, {"name": "x"}, format="multipart").json()["error"]["fields"]
    answer = send(api, lables="typo")

    assert answer.status_code == 400
    assert answer.json()["error"]["fields"] == {"lables": ["Unknown field."]}
    assert temporary_files() == []
    assert api.post(URL, {"name": "x"}, format="json").status_code == 415


def test_more_than_the_limit_is_413_and_leaves_nothing(api, settings):
    settings.UPLOAD_LIMIT_BYTES = 100
    answer = send(api, GOOD * 3)

    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_large"
    assert temporary_files() == []


def test_no_disk_space_is_507_and_leaves_nothing(api, settings):
    settings.DISK_RESERVE_BYTES = 10**18
    answer = send(api)

    assert answer.status_code == 507
    assert answer.json()["error"]["code"] == "no_disk_space"
    assert temporary_files() == []


def test_a_dataset_is_found_by_id_and_by_slug_and_nothing_else(api, checked):
    dataset = checked()

    assert api.get(f"{URL}{dataset.pk}/").json()["slug"] == dataset.slug
    assert api.get(f"{URL}{dataset.slug}/").json()["id"] == dataset.pk
    for key in ("999999", "9" * 30, "no-such", "-1", "%00", "a b"):
        assert api.get(f"{URL}{key}/").status_code == 404, key


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", ""),
        ("patch", ""),
        ("delete", ""),
        ("get", "rows/"),
        ("get", "problems/"),
        ("get", "lengths/"),
        ("get", "file/"),
        ("post", "archive/"),
        ("post", "restore/"),
    ],
)
def test_a_stranger_finds_nothing_and_somebody_unknown_is_sent_away(as_bob, checked, method, path):
    url = f"{URL}{checked().pk}/{path}"

    assert getattr(as_bob, method)(url).status_code == 404
    assert getattr(APIClient(), method)(url).status_code == 401
    assert APIClient().get(URL).status_code == 401


def test_what_is_shared_is_seen_by_all_and_changed_by_operators(as_bob, checked, olga):
    house = checked(owner=None, shared=True)
    url = f"{URL}{house.slug}/"

    assert as_bob.get(url).json()["owner"] is None
    assert as_bob.patch(url, {"name": "Mine"}).status_code == 403
    assert as_bob.delete(url).status_code == 403
    assert as_bob.post(f"{url}archive/").status_code == 403
    staff = APIClient()
    staff.force_authenticate(olga)
    assert staff.patch(url, {"name": "Ours"}).json()["name"] == "Ours"


def test_it_changes_names_and_labels_and_nothing_else(api, checked):
    url = f"{URL}{checked(labels=['old']).pk}/"

    body = api.patch(url, {"name": " New  name ", "description": "d", "labels": ["a", "b"]}).json()
    assert (body["name"], body["description"], body["labels"]) == ("New name", "d", ["a", "b"])
    for field, value in (("status", "failed"), ("owner", 1), ("sha256", "0"), ("row_count", 5)):
        answer = api.patch(url, {field: value})
        assert answer.status_code == 400, field
        assert field in answer.json()["error"]["fields"]


def test_columns_named_by_hand_are_checked_again(api, checked):
    dataset = checked(b'{"frage": "q", "antwort": "a"}\n')
    url = f"{URL}{dataset.pk}/"

    answer = api.patch(url, {"format": "question-answer", "column_map": {"question": "frage"}})
    assert answer.status_code == 400
    assert "answer" in answer.json()["error"]["fields"]["column_map"][0]
    answer = api.patch(
        url, {"format": "question-answer", "column_map": {"question": "frage", "answer": "antwort"}}
    )
    assert answer.json()["status"] == "checking"


def test_rows_are_shown_as_in_the_file_and_as_the_model_sees_them(api, checked):
    dataset = checked(GOOD + b'{"question": "q", "answer": null}\n{broken\n' + GOOD * 9)
    url = f"{URL}{dataset.pk}/rows/"

    body = api.get(url).json()
    assert (body["count"], len(body["results"])) == (12, 10)
    good, blank, broken = body["results"][:3]
    assert good["line"] == 1
    assert good["values"] == {"question": "How many legs has a spider?", "answer": "Eight."}
    assert good["example"]["messages"][1] == {"role": "assistant", "content": "Eight."}
    assert good["problem"] is None
    assert (blank["example"], blank["problem"]["field"]) == (None, "answer")
    assert (broken["values"], broken["problem"]["value"]) == (None, "{broken")
    assert [row["line"] for row in api.get(f"{url}?page=2&page_size=5").json()["results"]] == [
        6,
        7,
        8,
        9,
        10,
    ]
    assert api.get(f"{url}?page=9").status_code == 404
    assert len(api.get(f"{url}?page_size=5000").json()["results"]) == 12


def test_problems_are_listed_by_line(api, checked):
    dataset = checked(GOOD + b"{broken\n" * 3)

    body = api.get(f"{URL}{dataset.pk}/problems/?page_size=2").json()
    assert body["count"] == 3
    assert [row["line"] for row in body["results"]] == [2, 3]
    assert set(body["results"][0]) == {"line", "field", "value", "reason"}


def test_lists_are_narrowed_and_sorted(api, checked, as_bob):
    checked(name="animals.jsonl", labels=["zoo"])
    checked(b'{"text": "a"}\n', name="texts.jsonl", description="Words of spiders")
    archived = checked(name="old.jsonl")
    api.post(f"{URL}{archived.pk}/archive/")

    def names(query):
        answer = api.get(f"{URL}?{query}")
        assert answer.status_code == 200, answer.json()
        return [row["name"] for row in answer.json()["results"]]

    assert names("ordering=name") == ["animals", "texts"]
    assert names("ordering=-name") == ["texts", "animals"]
    assert names("search=SPIDERS") == ["texts"]
    assert names("label=Zoo") == ["animals"]
    assert names("format=text") == ["texts"]
    assert names("status=failed") == []
    assert names("owner=alice&ordering=id") == ["animals", "texts"]
    assert names("archived=true") == ["old"]
    assert api.get(f"{URL}?ordering=password").status_code == 400
    assert api.get(f"{URL}?status=nonsense").status_code == 400
    assert as_bob.get(URL).json()["count"] == 0


def test_a_list_takes_as_many_queries_for_ten_as_for_one(
    api, checked, django_assert_max_num_queries
):
    checked(labels=["a"])
    # The rights of the reader take two, the page four.
    with django_assert_max_num_queries(6):
        api.get(URL)
    for _ in range(4):
        checked(labels=["a", "b"])
    with django_assert_max_num_queries(6):
        assert api.get(URL).json()["count"] == 5


def test_a_dataset_is_archived_restored_downloaded_and_deleted(api, checked):
    dataset = checked()
    url = f"{URL}{dataset.pk}/"

    assert api.post(f"{url}archive/").json()["archived_at"]
    assert api.post(f"{url}archive/").status_code == 200
    assert api.post(f"{url}restore/").json()["archived_at"] is None
    answer = api.get(f"{url}file/")
    assert b"".join(answer.streaming_content) == GOOD
    assert answer["Content-Disposition"] == 'attachment; filename="rows.jsonl"'
    assert api.delete(url).status_code == 204
    assert api.get(url).status_code == 404


def test_one_that_a_train_used_is_not_deleted(api, checked):
    dataset = checked()
    use(dataset)

    answer = api.delete(f"{URL}{dataset.pk}/")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "in_use"


def test_lengths_without_a_model_say_so(api, checked):
    body = api.get(f"{URL}{checked().pk}/lengths/").json()

    assert (body["model"], body["ready"], body["bars"]) == (None, False, [])
    assert api.get(f"{URL}{checked().pk}/lengths/?model=none-such").status_code == 404


def test_the_api_says_what_the_page_says_of_what_is_not_used(api, checked):
    turns = (
        b'[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", '
        b'"thinking": '
        b'"Hm.", "weight": 1}]'
    )
    dataset = checked(b'{"messages": ' + turns + b', "source": "book"}\n', "a.jsonl")

    body = api.get(f"{URL}{dataset.slug}/").json()
    assert body["unused"] == [{"name": "source", "rows": 1}]
    doctor = api.get(f"{URL}{dataset.slug}/doctor/").json()
    assert {finding["kind"]: finding["count"] for finding in doctor["findings"]} == {
        "unused": 1,
        "reasoning": 1,
    }
    (row,) = api.get(f"{URL}{dataset.slug}/rows/").json()["results"]
    assert row["example"]["messages"][1]["reasoning_content"] == "Hm."
    assert row["example"]["unused"] == ["source"]


def test_a_dataset_of_each_list_is_made_by_the_api_too(api, checked):
    lists = {
        "train": [{"question": "q", "answer": "a"}] * 2,
        "test": [{"question": "r", "answer": "b"}],
    }
    dataset = checked(json.dumps(lists).encode(), "a.json")

    answer = api.post(f"{URL}{dataset.slug}/repairs/", {"repair": "split_lists"}, format="json")
    assert answer.status_code == 201
    assert [made["repair"] for made in answer.json()] == [
        {"slug": "split_lists", "list": "train"},
        {"slug": "split_lists", "list": "test"},
    ]

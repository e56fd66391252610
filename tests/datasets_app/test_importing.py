"""Datasets fetched by the real datasets library from a hub on this machine."""

import hashlib
import json

import pyarrow
import pyarrow.parquet
import pytest
from rest_framework.test import APIClient

from core.errors import UserError
from datasets_app.checking import dataset_check
from datasets_app.importing import dataset_import
from datasets_app.models import Dataset
from tests.hub_server import COMMIT, TOKEN

pytestmark = pytest.mark.long

ROWS = [
    {"question": f"How much is {number} and one?", "answer": str(number + 1)}
    for number in range(30)
]


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def sums(hub, tmp_path):
    folder = tmp_path / "sums"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\nSums.\n")
    (folder / "train.jsonl").write_text(lines(ROWS))
    (folder / "test.jsonl").write_text(lines(ROWS[:5]))
    hub.datasets["org/sums"] = folder
    return folder


def fetch(owner, reference="org/sums", **asked) -> Dataset:
    dataset = dataset_import(owner=owner, reference=reference, **asked)
    dataset_check(dataset.pk)
    dataset.refresh_from_db()
    return dataset


def test_it_fetches_the_usual_split_and_checks_it(alice, sums):
    dataset = fetch(alice, "https://huggingface.co/datasets/org/sums", labels=["sums"])

    assert (dataset.status, dataset.error, dataset.format) == ("ready", "", "question-answer")
    assert (dataset.name, dataset.row_count, dataset.licence) == ("sums", 30, "mit")
    assert dataset.hub["revision"] == COMMIT
    assert (dataset.hub["split"], dataset.hub["configuration"]) == ("train", "default")
    assert [json.loads(line) for line in dataset.path.read_text().splitlines()] == ROWS
    assert dataset.size_bytes == dataset.path.stat().st_size
    assert hashlib.sha256(dataset.path.read_bytes()).hexdigest() == dataset.sha256
    assert sorted(path.name for path in dataset.path.parent.iterdir()) == [
        "data.jsonl",
        "marks.json",
    ]


def test_another_split_and_the_first_rows(alice, sums):
    dataset = fetch(alice, split="test", most_rows=3, name="To measure with")

    assert (dataset.title, dataset.row_count, dataset.hub["split"]) == (
        "To measure with",
        3,
        "test",
    )


def test_what_there_is_is_named(alice, sums):
    assert fetch(alice, split="dev").error == "It has no split 'dev'. There is train, test."
    assert "It has no configuration 'main'" in fetch(alice, configuration="main").error


def test_pictures_are_left_out_and_dates_written(alice, hub, tmp_path):
    folder = tmp_path / "seen"
    folder.mkdir()
    picture = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table(
        {
            "question": ["What is it?"],
            "answer": ["A cat."],
            "photo": pyarrow.array([{"bytes": b"\x89PNG", "path": "cat.png"}], picture),
            "seen": pyarrow.array([0], pyarrow.timestamp("s")),
        }
    )
    features = {
        "question": {"dtype": "string", "_type": "Value"},
        "answer": {"dtype": "string", "_type": "Value"},
        "photo": {"_type": "Image"},
        "seen": {"dtype": "timestamp[s]", "_type": "Value"},
    }
    described = {"huggingface": json.dumps({"info": {"features": features}})}
    pyarrow.parquet.write_table(
        table.replace_schema_metadata(described), folder / "train-00000-of-00001.parquet"
    )
    hub.datasets["org/seen"] = folder

    dataset = fetch(alice, "org/seen")

    assert (dataset.status, dataset.error, dataset.licence) == ("ready", "", "")
    assert dataset.hub["dropped"] == ["photo"]
    assert json.loads(dataset.path.read_text()) == {
        "question": "What is it?",
        "answer": "A cat.",
        "seen": "1970-01-01T00:00:00",
    }


def test_a_script_is_not_run(alice, hub, tmp_path):
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text("raise SystemExit('it ran')")
    hub.datasets["org/scripted"] = folder

    error = fetch(alice, "org/scripted").error

    assert "comes as a script" in error
    assert "org/scripted@refs/convert/parquet" in error


def test_files_that_are_no_rows(alice, sums):
    (sums / "train.jsonl").write_text("no rows at all")
    assert fetch(alice).status == "failed"


def test_one_that_is_not_there_and_one_that_is_gated(alice, hub, sums, settings):
    assert (
        "There is no dataset org/nothing on the hub, or it is private"
        in fetch(alice, "org/nothing").error
    )
    assert "no such revision" in fetch(alice, "org/sums@older").error
    hub.gated.add("org/sums")
    assert "gated" in fetch(alice).error
    settings.HF_TOKEN_USERS = "everybody"
    settings.HF_TOKEN = TOKEN
    assert fetch(alice).status == "ready"


def test_without_a_network_it_says_so(alice, hub, sums, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "work without a network (HF_HUB_OFFLINE). Or upload the file." in fetch(alice).error
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "The hub cannot be reached" in fetch(alice).error


def test_one_that_is_deleted_while_it_is_fetched_leaves_nothing(alice, sums):
    dataset = dataset_import(owner=alice, reference="org/sums")
    Dataset.objects.filter(pk=dataset.pk).delete()
    dataset_check(dataset.pk)
    assert not dataset.path.exists()


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"reference": "../etc/passwd"}, "reference"),
        ({"reference": "http://10.0.0.1/org/name"}, "reference"),
        ({"reference": "org/name", "split": "train[:10]"}, "split"),
        ({"reference": "org/name", "most_rows": 0}, "most_rows"),
    ],
)
def test_what_cannot_be_asked_for(alice, asked, field):
    with pytest.raises(UserError) as refused:
        dataset_import(owner=alice, **asked)
    assert list(refused.value.fields) == [field]
    assert not Dataset.objects.exists()


def test_the_page_and_the_api(client, alice, sums):
    client.force_login(alice)
    page = client.post(
        "/datasets/import/",
        {"reference": "org/sums", "split": "dev", "most_rows": "3"},
        follow=True,
    )
    assert "Fetching the rows from the hub" in page.content.decode()
    dataset = Dataset.objects.get()
    dataset_check(dataset.pk)
    page = client.get(f"/datasets/{dataset.pk}/").content.decode()
    assert "It has no split &#x27;dev&#x27;" in page
    again = "/datasets/import/?reference=org%2Fsums&amp;name=sums&amp;split=dev&amp;most_rows=3"
    assert again in page
    assert 'value="dev"' in client.get(again.replace("&amp;", "&")).content.decode()
    refused = client.post("/datasets/import/", {"reference": "sums"})
    assert refused.status_code == 400
    assert "Write the dataset&#x27;s name as on Hugging Face" in refused.content.decode()

    api = APIClient()
    api.force_authenticate(alice)
    made = api.post("/api/v1/datasets/import/", {"reference": "org/sums", "most_rows": 2})
    assert made.status_code == 201
    assert made.data["phase"] == "Fetching the rows from the hub"
    dataset_check(made.data["id"])
    answer = api.get(f"/api/v1/datasets/{made.data['id']}/").data
    assert (answer["row_count"], answer["licence"], answer["phase"]) == (2, "mit", "")

"""Repairs for real: each makes a version by the check's own job, and what it was made of stays as
it was."""

import json
import shutil

import pytest
from django.core.exceptions import PermissionDenied
from rest_framework.test import APIClient

from core import tokenizers
from core.errors import UserError
from core.tokenizers import Tokenizer
from datasets_app.checking import dataset_check
from datasets_app.lengths import lengths_count
from datasets_app.models import Dataset, TokenLengths
from datasets_app.repairing import dataset_repair
from datasets_app.services import dataset_archive, dataset_delete
from tests.markup import markup
from tests.tiny import tiny_model

KEY = "sk-" + "a1B2" * 8


def lines(*rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def asked(question, answer="Yes.", **more):
    return {"Frage": question, "Antwort": answer} | more


ROWS = lines(asked("A"), asked("B", n=1), asked("A"), asked(None), asked(f"My key is {KEY}"))
PAIRS = lines(
    *({"prompt": f"P{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(20))
)


@pytest.fixture
def german(checked, alice) -> Dataset:
    """A dataset whose columns were named by hand."""
    from datasets_app.services import dataset_update

    dataset = checked(ROWS)
    dataset_update(
        dataset=dataset,
        by=alice,
        format="question-answer",
        column_map={"question": "Frage", "answer": "Antwort"},
    )
    dataset_check(dataset.pk)
    dataset.refresh_from_db()
    return dataset


def made(dataset, by, repair, **values) -> list[Dataset]:
    versions = dataset_repair(dataset=dataset, by=by, repair=repair, **values)
    for version in versions:
        dataset_check(version.pk)
        version.refresh_from_db()
    return versions


def rows_of(dataset):
    return [json.loads(line) for line in dataset.path.read_bytes().splitlines()]


def test_a_repair_makes_a_version_and_leaves_the_original_alone(german, alice):
    before = german.path.read_bytes(), german.sha256
    (version,) = made(german, alice, "drop_duplicates")
    assert (version.status, version.version, version.parent, version.title) == (
        "ready",
        2,
        german,
        "rows v2",
    )
    assert (version.format, version.column_map) == (german.format, german.column_map)
    assert [row["Frage"] for row in rows_of(version)] == ["A", "B", None, f"My key is {KEY}"]
    assert rows_of(version)[1]["n"] == 1
    assert version.repair["counts"] == {"read": 5, "written": 4, "changed": 0, "left_out": 1}
    assert (version.row_count, version.problem_count) == (4, 1)
    assert "duplicate" not in {finding["kind"] for finding in version.findings}
    german.refresh_from_db()
    assert (german.path.read_bytes(), german.sha256) == before


def test_versions_of_versions_are_counted_in_one_family(german, alice, checked):
    (second,) = made(german, alice, "drop_bad")
    (third,) = made(second, alice, "mask_secrets")
    (fourth,) = made(german, alice, "rename_columns")
    assert [version.version for version in (second, third, fourth)] == [2, 3, 4]
    # Another dataset whose name merely begins alike counts for itself.
    (other,) = made(checked(PAIRS, name="rows-extra.jsonl"), alice, "pairs_to_ratings")
    assert (other.version, other.format, other.row_count) == (2, "kto", 40)
    assert KEY not in third.path.read_text()
    assert KEY not in json.dumps(third.repair)
    assert [*rows_of(fourth)[1]] == ["question", "answer", "n"]
    assert fourth.column_map == {}
    assert fourth.problem_count == 1


def test_a_split_makes_two_that_are_all_rows_together(checked, alice):
    dataset = checked(PAIRS)
    train, evaluation = made(dataset, alice, "split")
    assert (train.row_count, evaluation.row_count) == (18, 2)
    assert evaluation.name == "rows (to measure with)"
    assert (
        len({json.dumps(row) for version in (train, evaluation) for row in rows_of(version)}) == 20
    )


def test_what_is_not_offered_is_refused(checked, alice, bob):
    dataset = checked(PAIRS)
    for repair in ("drop_duplicates", "merge_turns", "nonsense", "cut_long"):
        with pytest.raises(UserError):
            dataset_repair(dataset=dataset, by=alice, repair=repair)
    with pytest.raises(PermissionDenied):
        dataset_repair(dataset=dataset, by=bob, repair="split")
    assert Dataset.objects.count() == 1


def test_where_nothing_is_left_the_version_says_so(checked, alice):
    (version,) = made(checked(lines({"question": "A\ufffd", "answer": "B"})), alice, "drop_lost")
    assert (version.status, version.error) == ("failed", "No row is left after this repair.")


def test_a_version_whose_original_lost_its_file_says_so(checked, alice):
    dataset = checked(PAIRS)
    (version,) = dataset_repair(dataset=dataset, by=alice, repair="split")[:1]
    shutil.rmtree(dataset.path.parent)
    dataset_check(version.pk)
    version.refresh_from_db()
    assert (version.status, version.error) == (
        "failed",
        "The version that it was to be made from was deleted.",
    )


def test_an_original_with_versions_is_archived_and_not_deleted(checked, alice):
    dataset = checked(PAIRS)
    (version,) = made(dataset, alice, "pairs_to_ratings")
    with pytest.raises(UserError, match="Other versions were made"):
        dataset_delete(dataset=dataset, by=alice)
    dataset_archive(dataset=dataset, by=alice)
    dataset_delete(dataset=version, by=alice)
    dataset_delete(dataset=dataset, by=alice)
    assert not Dataset.objects.exists()


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """The tiny model counts tokens."""
    tiny_model_folder = tiny_model(tmp_path / "tiny")
    tokenizer = Tokenizer("tiny", "Tiny", "0" * 64, str(tiny_model_folder))
    monkeypatch.setattr(tokenizers, "_sources", [lambda user: [tokenizer]])
    return tokenizer


LONG = lines(*({"question": question, "answer": "a"} for question in ("short", "q " * 60, "s")))


def test_rows_over_a_limit_are_told_on_the_page_and_left_out(checked, alice, counted, client):
    dataset = checked(LONG)
    lengths_count(TokenLengths.objects.get().pk)
    client.force_login(alice)
    page = markup(client.get(f"/datasets/{dataset.pk}/?limit=50"))
    assert "<strong>1</strong> row of 3 would be cut there" in page
    assert "before the answer begins" in page
    assert "line 2 with" in page
    answer = client.post(
        f"/datasets/{dataset.pk}/repair/",
        {"repair": "drop_long", "model": "tiny", "limit": "50"},
        follow=True,
    )
    version = Dataset.objects.get(parent=dataset)
    assert answer.redirect_chain[0][0] == version.get_absolute_url()
    dataset_check(version.pk)
    version.refresh_from_db()
    assert [row["question"] for row in rows_of(version)] == ["short", "s"]
    page = markup(client.get(version.get_absolute_url()))
    assert "leave out long rows (50 tokens, counted with Tiny)" in page
    assert counted.path not in page


def test_a_limit_must_be_one(checked, alice, counted):
    dataset = checked(LONG)
    for limit in (0, -1, 10**9):
        with pytest.raises(UserError) as caught:
            dataset_repair(
                dataset=dataset, by=alice, repair="drop_long", model="tiny", max_tokens=limit
            )
        assert set(caught.value.fields) == {"max_tokens"}
    with pytest.raises(UserError) as caught:
        dataset_repair(dataset=dataset, by=alice, repair="drop_long", model="no-such", max_tokens=9)
    assert set(caught.value.fields) == {"model"}


def test_the_page_says_which_methods_can_learn_and_what_was_found(german, alice, bob, client):
    client.force_login(alice)
    page = markup(client.get(german.get_absolute_url()))
    assert "The same row again" in page
    assert "Leave out duplicates" in page
    findings = page.partition('id="doctor"')[2].partition('id="preview"')[0]
    assert findings
    assert "My key is" not in findings
    client.force_login(bob)
    assert client.post(f"/datasets/{german.pk}/repair/", {"repair": "drop_bad"}).status_code == 404


def test_the_api_does_the_same(checked, alice, bob, counted):
    dataset = checked(PAIRS)
    api = APIClient()
    api.force_authenticate(alice)
    url = f"/api/v1/datasets/{dataset.slug}"
    body = api.get(f"{url}/doctor/").json()
    assert {item["recipe"]: item["state"] for item in body["recipes"]} == {
        "sft": "repair",
        "dpo": "ready",
        "kto": "ready",
        "reward": "ready",
        "grpo": "ready",
        "ppo": "ready",
    }
    answer = api.post(f"{url}/repairs/", {"repair": "drop_long", "model": "tiny", "max_tokens": 64})
    assert answer.status_code == 201
    (version,) = answer.json()
    assert (version["version"], version["parent"]) == (2, dataset.pk)
    assert version["repair"] == {"slug": "drop_long", "model": "Tiny", "max_tokens": 64}
    refused = api.post(f"{url}/repairs/", {"repair": "drop_long", "model": "tiny"})
    assert (refused.status_code, set(refused.json()["error"]["fields"])) == (400, {"max_tokens"})
    api.force_authenticate(bob)
    assert api.get(f"{url}/doctor/").status_code == 404
    assert api.post(f"{url}/repairs/", {"repair": "split"}).status_code == 404

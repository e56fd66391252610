"""What services do with datasets, and what they refuse."""

from pathlib import Path

import pytest
from django.conf import settings
from django.core.exceptions import PermissionDenied

from core.errors import UserError
from core.store import datasets_folder
from core.upload import PREFIX
from datasets_app import services
from datasets_app.checking import dataset_check
from datasets_app.models import Dataset, Label
from datasets_app.services import (
    dataset_archive,
    dataset_create,
    dataset_delete,
    dataset_restore,
    dataset_update,
    datasets_reconcile,
    labels_set,
)
from jobs.models import Job
from methods.models import TrainingMethod
from models_app.models import BaseModel
from training.models import TrainRun


def temporary_files() -> list[Path]:
    return list(Path(settings.FILE_UPLOAD_TEMP_DIR).glob(f"{PREFIX}*"))


def use(dataset: Dataset) -> TrainRun:
    method = TrainingMethod.objects.create(
        slug="m", name="M", description="-", needs="-", recipe="sft"
    )
    model = BaseModel.objects.create(
        name="T", slug="t", source="gguf", reference="t.gguf", status="ready"
    )
    return TrainRun.objects.create(
        owner=dataset.owner,
        name="t",
        method=method,
        base_model=model,
        dataset=dataset,
        parameters={},
    )


def test_a_dataset_keeps_the_file_as_it_came(upload):
    content = b'\xef\xbb\xbf{"text": "a"}\r\n'
    dataset = upload(content, "Some Rows.jsonl")

    assert dataset.path.read_bytes() == content
    assert dataset.path == datasets_folder() / str(dataset.pk) / "data.jsonl"
    assert (dataset.name, dataset.slug, dataset.file_name) == (
        "Some Rows",
        "some-rows",
        "Some Rows.jsonl",
    )
    assert (dataset.size_bytes, dataset.status) == (len(content), "checking")
    assert len(dataset.sha256) == 64
    assert temporary_files() == []


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("../../etc/passwd.jsonl", "passwd"),
        ("..\\..\\boot.jsonl", "boot"),
        ("a\x00b\u202e.jsonl", "ab"),
        ("x" * 4000 + ".jsonl", "x" * 120),
        ("Ünïcödé 数据.jsonl", "Ünïcödé 数据"),
        (".jsonl", ".jsonl"),
        ("  ", "Dataset"),
    ],
)
def test_a_file_name_is_a_label_and_never_a_path(upload, name, label):
    dataset = upload(b'{"text": "a"}\n', name)

    assert dataset.name == label
    assert dataset.path.parent == datasets_folder() / str(dataset.pk)
    assert dataset.path.name == "data.jsonl"
    assert len(dataset.file_name) <= 255


def test_slugs_are_unique_and_never_a_number(upload):
    slugs = [
        upload(name="My data.jsonl").slug,
        upload(name="my-data.jsonl").slug,
        upload(name="My Data!.jsonl").slug,
    ]

    assert slugs == ["my-data", "my-data-2", "my-data-3"]
    assert upload(name="42.jsonl").slug == "dataset-42"
    assert upload(name="数据.jsonl").slug == "dataset"


def test_a_refused_file_leaves_nothing_behind(alice, receive):
    with pytest.raises(UserError) as refusal:
        dataset_create(owner=alice, file=receive(b"", "a.jsonl"))

    assert "file" in refusal.value.fields
    assert list(datasets_folder().glob("*")) == []
    assert temporary_files() == []
    assert not Dataset.objects.exists()


def test_a_failure_on_the_way_leaves_nothing_behind(alice, receive, monkeypatch):
    def explode(dataset):
        raise OSError("disk on fire")

    monkeypatch.setattr(services, "check_enqueue", explode)
    with pytest.raises(OSError, match="on fire"):
        dataset_create(owner=alice, file=receive(b'{"text": "a"}', "a.jsonl"))

    assert list(datasets_folder().glob("*")) == []
    assert temporary_files() == []
    assert not Dataset.objects.exists()


def test_labels_are_shared_folded_and_pruned(upload, alice):
    first, second = upload(labels=["  Support  ", "german", ""]), upload(labels=["SUPPORT"])

    assert sorted(label.name for label in first.labels.all()) == ["Support", "german"]
    assert [label.name for label in second.labels.all()] == ["Support"]

    labels_set(dataset=first, by=alice, labels=["new"])
    assert sorted(Label.objects.values_list("name", flat=True)) == ["Support", "new"]

    with pytest.raises(UserError, match="At most 20"):
        labels_set(dataset=first, by=alice, labels=[str(number) for number in range(21)])


def test_only_the_owner_and_staff_change_a_dataset(upload, alice, bob, olga):
    dataset, house = upload(), upload(owner=None, shared=True)

    for change in (dataset_archive, dataset_restore, dataset_delete):
        with pytest.raises(PermissionDenied):
            change(dataset=dataset, by=bob)
        with pytest.raises(PermissionDenied):
            change(dataset=house, by=alice)
    assert dataset_update(dataset=dataset, by=olga, name="Ours").name == "Ours"
    dataset_delete(dataset=house, by=olga)


def test_a_name_cannot_be_taken_away(upload, alice):
    with pytest.raises(UserError) as refusal:
        dataset_update(dataset=upload(), by=alice, name=" \u200e ")
    assert "name" in refusal.value.fields


def test_a_deleted_dataset_is_gone_with_its_files(
    checked, alice, django_capture_on_commit_callbacks
):
    dataset = checked()
    folder = dataset.path.parent

    with django_capture_on_commit_callbacks(execute=True):
        dataset_delete(dataset=dataset, by=alice)

    assert not folder.exists()
    assert not Dataset.objects.exists()


def test_a_dataset_that_a_train_used_can_be_archived_and_not_deleted(checked, alice):
    dataset = checked()
    use(dataset)

    with pytest.raises(UserError, match="Archive it instead") as refusal:
        dataset_delete(dataset=dataset, by=alice)

    assert refusal.value.code == "in_use"
    assert dataset.path.exists()
    assert dataset_archive(dataset=dataset, by=alice).archived_at
    assert not Dataset.objects.offered().exists()
    assert dataset_restore(dataset=dataset, by=alice).archived_at is None


def test_columns_named_by_hand_have_the_file_checked_again(checked, alice):
    dataset = checked(b'{"frage": "q", "antwort": "a"}\n')
    assert dataset.status == "failed"

    dataset_update(
        dataset=dataset,
        by=alice,
        format="question-answer",
        column_map={"question": "frage", "answer": "antwort"},
    )
    dataset.refresh_from_db()
    assert dataset.status == "checking"
    dataset_check(dataset.pk)

    dataset.refresh_from_db()
    assert (dataset.status, dataset.format, dataset.problem_count) == (
        "ready",
        "question-answer",
        0,
    )


@pytest.mark.parametrize(
    ("format", "column_map", "field"),
    [
        ("no-such", {}, "format"),
        ("question-answer", {"question": "frage"}, "column_map"),
        ("question-answer", {"question": "frage", "answer": "nowhere"}, "column_map"),
        ("question-answer", {"other": "frage"}, "column_map"),
    ],
)
def test_columns_that_do_not_fit_are_refused(checked, alice, format, column_map, field):
    dataset = checked(b'{"frage": "q", "antwort": "a"}\n')

    with pytest.raises(UserError) as refusal:
        dataset_update(dataset=dataset, by=alice, format=format, column_map=column_map)
    assert list(refusal.value.fields) == [field]


def test_how_a_used_dataset_is_read_no_longer_changes(checked, alice):
    dataset = checked()
    use(dataset)

    with pytest.raises(UserError, match="A train has used this dataset"):
        dataset_update(dataset=dataset, by=alice, format="question-answer")


def test_what_the_queue_forgot_is_added_again(upload, checked):
    waiting = upload()
    checked()
    Job.objects.all().delete()

    datasets_reconcile()

    assert [job.arguments for job in Job.objects.filter(kind="dataset-check")] == [[waiting.pk]]

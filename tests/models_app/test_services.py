"""What can be done with a model, by whom, and what stays."""

import pytest
from django.core.exceptions import PermissionDenied

from core.errors import UserError
from core.tokenizers import tokenizers_for
from datasets_app.models import Dataset
from jobs.models import Job
from methods.models import TrainingMethod
from models_app.models import BaseModel
from models_app.services import (
    model_add,
    model_add_folder,
    model_add_hub,
    model_archive,
    model_delete,
    model_restore,
    model_retry,
    model_update,
    models_reconcile,
)
from training.models import TrainRun


@pytest.fixture
def used(make_model, alice) -> BaseModel:
    """A model of Alice's that a train started from."""
    model = make_model(owner=alice, name="Used")
    method = TrainingMethod.objects.create(
        slug="m", name="M", description="-", needs="-", example="{}", recipe="sft"
    )
    data = Dataset.objects.create(
        name="D", slug="d", file_name="d", file_type="jsonl", size_bytes=1, sha256="0" * 64
    )
    TrainRun.objects.create(
        name="t", owner=alice, method=method, base_model=model, dataset=data, parameters={}
    )
    return model


def test_slugs_are_free_and_no_ids(alice, tiny_folder):
    names = ["Tiny", "Tiny", "123", "模型", "Folders"]
    slugs = [
        model_add_hub(owner=alice, reference=f"org/m{i}", name=name).slug
        for i, name in enumerate(names)
    ]
    assert slugs == ["tiny", "tiny-2", "model-123", "model", "model-folders"]


@pytest.mark.parametrize("suffix", ["-gguf", "-adapter"])
def test_no_slug_is_the_name_of_another_models_repository(alice, suffix):
    names = ["Tiny", f"Tiny{suffix}", f"tiny{suffix}", suffix]
    slugs = [
        model_add_hub(owner=alice, reference=f"org/m{i}", name=name).slug
        for i, name in enumerate(names)
    ]
    assert slugs == ["tiny", f"tiny{suffix}-2", f"tiny{suffix}-3", suffix[1:]]


def test_the_same_thing_twice_is_a_double_click(alice, bob, tiny_folder):
    first = model_add_folder(owner=alice, reference=str(tiny_folder))
    with pytest.raises(UserError, match="added it already"):
        model_add_folder(owner=alice, reference=f"{tiny_folder}/")
    model_add_folder(owner=bob, reference=str(tiny_folder))
    model_archive(model=first, by=alice)
    model_add_folder(owner=alice, reference=str(tiny_folder))


def test_a_failed_import_is_tried_again_and_not_added_again(alice, make_model):
    make_model(owner=alice, reference="org/tiny", status="failed")
    with pytest.raises(UserError, match="Try that one again"):
        model_add_hub(owner=alice, reference="org/tiny")


def test_a_gguf_model_needs_its_file(alice):
    with pytest.raises(UserError, match="Choose a GGUF file"):
        model_add(owner=alice, source="gguf")


def test_names_are_cleaned(alice, make_model):
    model = make_model(owner=alice)
    model_update(
        model=model, by=alice, name=" A\u202e name\n of mine ", description="two\r\nlines\x00"
    )
    assert (model.name, model.description) == ("A name of mine", "two\nlines")
    with pytest.raises(UserError, match="Give the model a name"):
        model_update(model=model, by=alice, name=" \x00 ")


@pytest.mark.parametrize(
    "change", [model_update, model_archive, model_restore, model_retry, model_delete]
)
def test_only_its_owner_and_staff_change_a_model(change, alice, bob, olga, make_model):
    for model in (
        make_model(owner=alice, status="failed"),
        make_model(owner=None, status="failed"),
    ):
        with pytest.raises(PermissionDenied):
            change(model=model, by=bob)
        change(model=model, by=olga)


def test_an_archived_model_is_offered_no_longer(alice, make_model):
    model = make_model(owner=alice, tokenizer_sha256="1" * 64)
    assert [tokenizer.slug for tokenizer in tokenizers_for(alice)] == [model.slug]
    model_archive(model=model, by=alice)
    assert not BaseModel.objects.offered().exists()
    assert tokenizers_for(alice) == []
    model_restore(model=model, by=alice)
    assert BaseModel.objects.offered().get() == model


def test_a_model_goes_with_its_files(alice, make_model):
    model = make_model(owner=alice)
    for folder in (model.path, model.import_path):
        folder.mkdir(parents=True)
        (folder / "file").write_text("x")
    path, import_path = model.path, model.import_path
    model_delete(model=model, by=alice)
    assert not path.exists()
    assert not import_path.exists()


def test_a_model_that_a_train_started_from_stays(alice, used):
    used.path.mkdir(parents=True)
    train = used.trains.get()
    with pytest.raises(UserError, match=f"in use by the train t #{train.pk}") as caught:
        model_delete(model=used, by=alice)
    assert caught.value.code == "in_use"
    assert used.path.is_dir()
    assert BaseModel.objects.filter(pk=used.pk).exists()


def test_what_stands_on_a_model_is_named_as_far_as_one_may_know(alice, bob, make_model, used):
    other = TrainRun.objects.get(base_model=used)
    TrainRun.objects.filter(pk=other.pk).update(owner=bob)
    for number in range(5):
        make_model(owner=alice, source="train", parent=used, name=f"Child {number}", version="2")

    with pytest.raises(UserError) as caught:
        model_delete(model=used, by=alice)
    assert caught.value.message == (
        "Used stays, because it is in use by the models Child 0 · v2, Child 1 · v2, Child 2 · v2 "
        "and 2 more; 1 train of others. Archive it instead: it is then no longer offered."
    )
    model_archive(model=used, by=alice)


def test_reconciling_adds_a_job_for_each_import_that_waits(make_model):
    waiting = make_model(status="importing")
    make_model(status="failed")
    make_model(status="ready")
    models_reconcile()
    models_reconcile()
    assert [(job.kind, job.arguments) for job in Job.objects.all()] == [
        ("model-import", [waiting.pk])
    ]

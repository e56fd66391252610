"""Exports are made by the real programs, compared, and leave nothing half-written behind."""

import shutil

import pytest
from safetensors.torch import load_file, save_file

from core.programs import folder_bytes
from exports import making
from exports.making import export_make
from exports.models import Export
from exports.services import export_add, export_delete, export_retry
from tests.exports.conftest import SYSTEM_PROMPT


@pytest.fixture
def export(model, alice) -> Export:
    return export_add(model=model, by=alice, format="safetensors")


def made(export: Export) -> Export:
    export_make(export.pk)
    export.refresh_from_db()
    return export


@pytest.mark.parametrize("name", ["safetensors", "adapter"])
def test_an_export_is_written_compared_and_listed(model, alice, name):
    export = made(export_add(model=model, by=alice, format=name))
    assert (export.status, export.error) == ("ready", "")
    assert export.proof["passed"] is True, export.proof
    assert export.size_bytes == folder_bytes(export.files_path) > 0
    names = {file["name"] for file in export.files}
    assert {"README.md", "passport.json"} <= names
    weights = "adapter_model.safetensors" if name == "adapter" else "model.safetensors"
    assert weights in names
    # Nothing of how it was made stays.
    assert {path.name for path in export.folder.iterdir()} == {"files", "lock"}


def test_a_model_that_was_not_trained_here_is_held_against_itself(base, alice):
    export = made(export_add(model=base, by=alice, format="safetensors"))
    assert (export.status, export.proof["passed"]) == ("ready", True), export.proof
    assert base.reference_path.is_file()


def test_the_trains_system_prompt_goes_along(model):
    assert making.system_prompt_of(model) == SYSTEM_PROMPT
    # Models that were merged before references were kept.
    model.reference_path.unlink()
    assert making.system_prompt_of(model) == SYSTEM_PROMPT
    (model.path / "passport.json").write_text("{")
    assert making.system_prompt_of(model) == ""


def test_what_is_there_is_neither_written_nor_compared_again(export, monkeypatch):
    made(export)
    before = export.files
    Export.objects.filter(pk=export.pk).update(status="making")
    monkeypatch.setattr(making, "program_run", None)
    made(export)
    assert (export.status, export.files) == ("ready", before)


def test_an_export_that_is_spoilt_on_its_way_is_found_out(export, monkeypatch):
    """Between the two programs, as a disk would do it."""
    prove = making._prove

    def spoil_and_prove(row):
        path = row.files_path / "model.safetensors"
        weights = load_file(path)
        name = "model.layers.1.mlp.down_proj.weight"
        save_file(weights | {name: weights[name] * 0}, path, metadata={"format": "pt"})
        prove(row)

    monkeypatch.setattr(making, "_prove", spoil_and_prove)
    made(export)
    assert (export.status, export.differs) == ("ready", True)
    assert "Same probabilities" in [check["name"] for check in export.failed_checks()]


def test_what_equals_a_model_that_differs_differs_too(export, model):
    model.proof = {"passed": False, "checks": []}
    model.save()
    made(export)
    assert export.differs
    assert [check["name"] for check in export.failed_checks()] == ["The model itself"]


def test_what_equals_a_model_that_differs_differs_where_it_was_not_compared_too(export, model):
    model.proof = {"passed": False, "checks": []}
    model.save()
    model.reference_path.write_text("{}")
    made(export)
    assert export.differs


def test_a_name_may_begin_with_a_dash(model, alice):
    model.name = "--help"
    model.save()
    assert made(export_add(model=model, by=alice, format="adapter")).status == "ready"


def test_a_comparison_that_cannot_be_made_says_why(export, model):
    model.reference_path.write_text("{}")
    made(export)
    assert export.status == "ready"
    assert export.proof["passed"] is None
    assert "cannot be read" in export.proof["error"]


def test_files_that_are_gone_are_a_clear_reason(export, model):
    shutil.rmtree(model.path)
    made(export)
    assert export.status == "failed"
    assert export.error == "The files of Help desk are gone. Add the model again."
    assert not export.folder.exists()


def test_a_full_disk_in_the_middle_leaves_nothing(export, settings):
    settings.DISK_RESERVE_BYTES = 10**18
    made(export)
    assert export.status == "failed"
    assert "Not enough disk space" in export.error
    assert not export.folder.exists()


def test_an_export_that_is_deleted_while_it_is_made_leaves_nothing(export, alice, monkeypatch):
    write = making._write

    def delete_then_write(row, **values):
        if values.get("phase") == "Comparing with the model":
            export_delete(export=export, by=alice)
        write(row, **values)

    monkeypatch.setattr(making, "_write", delete_then_write)
    export_make(export.pk)
    assert not Export.objects.exists()
    assert not export.folder.exists()


def test_only_one_process_makes_an_export(export):
    export.folder.mkdir(parents=True)
    with making.folder_lock(export.folder) as mine:
        assert mine
        export_make(export.pk)

    export.refresh_from_db()
    assert (export.status, export.attempts) == ("making", 0)


def test_one_that_took_its_worker_along_time_and_again_ends(export):
    Export.objects.filter(pk=export.pk).update(attempts=making.MOST_ATTEMPTS)
    made(export)
    assert export.status == "failed"
    assert "cut off several times" in export.error


@pytest.mark.long
@pytest.mark.parametrize("phase", ["Writing", "Comparing with the model"])
def test_one_that_was_killed_begins_again_and_leaves_one(export, alice, monkeypatch, phase):
    """As a worker that is killed leaves it: the row in the middle, files half written."""

    class Killed(BaseException):
        pass

    write = making._write

    def die(row, **values):
        write(row, **values)
        if values.get("phase") == phase:
            (row.folder / "making.tmp").mkdir(exist_ok=True)
            (row.folder / "making.tmp" / "half").write_text("half")
            raise Killed

    monkeypatch.setattr(making, "_write", die)
    with pytest.raises(Killed):
        export_make(export.pk)
    monkeypatch.undo()

    made(export)
    assert (export.status, export.proof["passed"]) == ("ready", True)
    assert export.attempts == 0
    assert not (export.folder / "making.tmp").exists()


@pytest.mark.long
def test_a_failed_one_is_tried_again(export, model, alice):
    shutil.move(model.path, model.path.with_name("aside"))
    assert made(export).status == "failed"
    shutil.move(model.path.with_name("aside"), model.path)
    export_retry(export=export, by=alice)
    assert made(export).status == "ready"

"""Hostile model folders and GGUF files at every door: listed, added and imported, within bounds."""

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from models_app import folder_list
from models_app.folder_list import NOT_YET, folders_offered
from models_app.importing import model_import
from models_app.models import BaseModel
from tests.datasets_app.test_hostile_files import within_bounds
from tests.hostile_files import MODEL_FOLDERS, claiming_gguf


@pytest.fixture(autouse=True)
def nothing_known():
    folder_list._known.clear()


@pytest.mark.parametrize(
    ("name", "spoil", "says", "at_once"), MODEL_FOLDERS, ids=[row[0] for row in MODEL_FOLDERS]
)
def test_a_folder_is_answered_at_every_door(name, spoil, says, at_once, client, alice, tiny_folder):
    client.force_login(alice)
    spoil(tiny_folder)

    for door in ("/models/new/?way=folder", "/api/v1/models/folders/"):
        with within_bounds(f"listing by {door}"):
            answer = client.get(door)
        assert answer.status_code == 200
        assert (says in answer.content.decode()) == at_once, door

    body = {"source": "folder", "reference": str(tiny_folder)}
    for door in ("/models/new/", "/api/v1/models/"):
        with within_bounds(f"adding by {door}"):
            answer = client.post(door, body)
        if at_once:
            assert answer.status_code == 400
            assert says in answer.content.decode()
    if at_once:
        assert not BaseModel.objects.exists()
        return

    model = BaseModel.objects.get()
    with within_bounds("the import"):
        model_import(model.pk)
    model.refresh_from_db()
    assert (model.status, says in model.error) == ("failed", True), model.error


def test_a_gguf_file_that_claims_too_much_is_refused_at_every_door(client, alice, home):
    client.force_login(alice)
    for door in ("/models/new/", "/api/v1/models/"):
        file = SimpleUploadedFile("claims.gguf", claiming_gguf())
        with within_bounds(f"uploading by {door}"):
            answer = client.post(door, {"source": "gguf", "file": file})
        assert answer.status_code == 400
        assert "more than a file of its size can hold" in answer.content.decode()
    assert not BaseModel.objects.exists()


def count_reads(monkeypatch) -> list[str]:
    read: list[str] = []
    check = folder_list.folder_check
    monkeypatch.setattr(
        folder_list, "folder_check", lambda folder: (read.append(folder.name), check(folder))
    )
    return read


def test_a_folder_is_read_once_and_again_when_it_changes(tiny_folder, monkeypatch):
    read = count_reads(monkeypatch)
    first = folders_offered()
    assert folders_offered() == first
    assert read == ["tiny"]

    (tiny_folder / "config.json").write_text("{")
    (choice,) = folders_offered()
    assert "cannot be read as JSON" in choice.obstacle
    assert read == ["tiny", "tiny"]


def test_what_takes_too_long_to_read_is_read_the_next_time(tiny_folder, monkeypatch):
    monkeypatch.setattr(folder_list, "READ_SECONDS", -1.0)
    assert [choice.obstacle for choice in folders_offered()] == [NOT_YET]
    monkeypatch.undo()
    assert [choice.obstacle for choice in folders_offered()] == [""]


def test_a_root_with_very_many_folders_is_not_looked_through(inbox, monkeypatch):
    monkeypatch.setattr(folder_list, "MOST_LOOKED_AT", 10)
    for number in range(30):
        (inbox / f"folder-{number:02}").mkdir()
        (inbox / f"folder-{number:02}" / "config.json").write_text("{}")
    assert len(folders_offered()) == 10

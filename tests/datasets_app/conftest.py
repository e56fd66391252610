"""Datasets made from bytes, as an upload makes them, and checked at once."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings

from core.store import datasets_folder
from core.upload import ReceivedFile
from datasets_app.checking import dataset_check
from datasets_app.models import Dataset
from datasets_app.services import dataset_create

GOOD = b'{"question": "How many legs has a spider?", "answer": "Eight."}\n'


@pytest.fixture(autouse=True)
def no_files() -> Iterator[None]:
    """Rows go back with the transaction and their ids come again; files would stay."""
    shutil.rmtree(datasets_folder(), ignore_errors=True)
    yield
    shutil.rmtree(datasets_folder(), ignore_errors=True)


@pytest.fixture
def receive(tmp_path) -> Callable[[bytes, str], ReceivedFile]:
    def make(content: bytes | Path, name: str = "rows.jsonl") -> ReceivedFile:
        path = content if isinstance(content, Path) else tmp_path / "to upload"
        if not isinstance(content, Path):
            path.write_bytes(content)
        file = ReceivedFile.copy_of(path)
        file.name = name
        return file

    return make


@pytest.fixture
def upload(alice, receive) -> Callable[..., Dataset]:
    """Alice's dataset of `content`, not checked yet."""

    def make(
        content: bytes | Path = GOOD, name: str = "rows.jsonl", *, shared: bool = False, **values
    ) -> Dataset:
        dataset = dataset_create(**{"owner": alice} | values, file=receive(content, name))
        Dataset.objects.filter(pk=dataset.pk).update(shared=shared)
        dataset.refresh_from_db()
        return dataset

    return make


@pytest.fixture
def checked(upload) -> Callable[..., Dataset]:
    def make(content: bytes | Path = GOOD, name: str = "rows.jsonl", **values) -> Dataset:
        dataset = upload(content, name, **values)
        dataset_check(dataset.pk)
        dataset.refresh_from_db()
        return dataset

    return make


@pytest.fixture(autouse=True)
def no_uploads_of_other_tests():
    """Many tests look whether anything was left; made-up requests of others leave what a server
    would not."""
    for path in Path(settings.FILE_UPLOAD_TEMP_DIR).glob("upload-*"):
        path.unlink()


@pytest.fixture(autouse=True)
def programs_begin_at_once(warm_programs) -> None:
    """Many of these tests start one or several."""

"""Both kinds of storage, which all has to work with."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.storage.backends import Bucket
from engine.storage.settings import StorageSettings
from engine.storage.store import Store
from tests.storage.servers import S3Server
from tests.tiny import tiny_model

PATIENCE = 20.0


@pytest.fixture(scope="session")
def s3(tmp_path_factory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3") / "log")
    server.start()
    yield server
    server.end()


@pytest.fixture(params=["folder", "bucket"])
def settings_of_storage(request, tmp_path) -> StorageSettings:
    """Of an empty storage."""
    if request.param == "bucket":
        return request.getfixturevalue("s3").settings()

    root = tmp_path / "storage of all"
    root.mkdir()
    return StorageSettings(f"file://{root}")


@pytest.fixture
def store(settings_of_storage) -> Store:
    return Store(settings_of_storage, patience=PATIENCE)


@pytest.fixture
def put_past(settings_of_storage) -> Callable[[str, bytes], None]:
    """Put bytes under a name as the storage itself would change them, and leave their digest as it
    was."""
    settings = settings_of_storage

    def put(name: str, content: bytes) -> None:
        if settings.url.startswith("file://"):
            (Path(settings.url.removeprefix("file://")) / name).write_bytes(content)
            return

        bucket = Bucket(settings)
        bucket.put(content, name, bucket.digest(name))

    return put


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "llama")

"""A home of its own for each test, and a tiny model to import."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from models_app.models import BaseModel
from tests.tiny import tiny_model


@pytest.fixture(autouse=True)
def home(tmp_path, settings) -> Path:
    """DEEPEXTENSION_HOME, empty."""
    folder = tmp_path / "home"
    (folder / "tmp").mkdir(parents=True)
    settings.HOME = folder
    settings.FILE_UPLOAD_TEMP_DIR = folder / "tmp"
    settings.MODEL_ROOTS = []
    settings.DISK_RESERVE_BYTES = 0
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A tiny Llama in a folder that no test changes."""
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def inbox(home) -> Path:
    folder = home / "models-inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def tiny_folder(tiny, inbox) -> Path:
    """A copy of the tiny model below an allowed root, to be spoilt at will."""
    return Path(shutil.copytree(tiny, inbox / "tiny"))


@pytest.fixture
def make_model(db) -> Callable[..., BaseModel]:
    """A model's row with the given fields, shared unless it has an owner; its files are not
    there."""

    def make(**fields) -> BaseModel:
        number = BaseModel.objects.count() + 1
        values = {
            "name": f"Model {number}",
            "slug": f"model-number-{number}",
            "source": "hub",
            "reference": "org/model",
            "shared": fields.get("owner") is None,
        }
        return BaseModel.objects.create(**values | {"status": "ready"} | fields)

    return make


@pytest.fixture(autouse=True)
def programs_begin_at_once(warm_programs) -> None:
    """Many of these tests start one or several."""

"""A home of its own, and one row of everything that Alice owns."""

import pytest
from django.contrib.auth.models import User

from tests.world import NUMBER, World, world_make


@pytest.fixture(autouse=True)
def home(tmp_path, settings):
    folder = tmp_path / "home"
    (folder / "tmp").mkdir(parents=True)
    settings.HOME = folder
    settings.FILE_UPLOAD_TEMP_DIR = folder / "tmp"
    settings.DISK_RESERVE_BYTES = 0


@pytest.fixture
def alice(db) -> User:
    return User.objects.create_user("alice", password="alice-password-1", pk=NUMBER)


@pytest.fixture
def carol(db) -> User:
    """Who gets what others leave behind."""
    return User.objects.create_user("carol", password="carol-password-1")


@pytest.fixture
def world(alice) -> World:
    return world_make(alice)

"""What every test stands on: a fixed cast of people, and pages without collected files."""

from collections.abc import Iterator

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, User

from tests.hub_server import Hub, running_hub
from tests.live import Platform, running_platform


@pytest.fixture(autouse=True)
def plain_static_files(settings):
    """Pages under test need no collected static files."""
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }


@pytest.fixture(autouse=True)
def quick_passwords(settings):
    """A slow hash for every account of the cast would be most of the suite's time."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def alice(db) -> User:
    """Somebody who trains models."""
    return get_user_model().objects.create_user("alice", password="alice-password-1")


@pytest.fixture
def bob(db) -> User:
    """A stranger to what is Alice's."""
    return get_user_model().objects.create_user("bob", password="bob-password-1")


@pytest.fixture
def stan(db) -> User:
    """Staff who was given no permission at all."""
    return get_user_model().objects.create_user("stan", password="stan-password-1", is_staff=True)


@pytest.fixture
def otto(db) -> User:
    """An operator: staff, and a member of the group Operators."""
    user = get_user_model().objects.create_user("otto", password="otto-password-1", is_staff=True)
    user.groups.add(Group.objects.get(name="Operators"))
    return user


@pytest.fixture
def olga(db) -> User:
    """A superuser."""
    return get_user_model().objects.create_superuser("olga", password="olga-password-1")


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    """The hub, on this machine, for real downloads."""
    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setattr("core.hub.RETRY_SECONDS", 0.01)
        yield running


# First, because pytest-xdist reads the groups in the same hook.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of several test processes one has the platform of the browser tests and all of those, one
    that of the others."""
    for item in items:
        if "platform" in getattr(item, "fixturenames", ()):
            which = "browser" if item.path.parent.name == "browser" else "others"
            item.add_marker(pytest.mark.xdist_group(f"platform-{which}"))


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """One running platform for all tests that need a real one."""
    with running_platform() as running:
        yield running

"""What every test stands on: a fixed cast of people, and pages without collected files."""

import subprocess
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, User

from core import programs
from tests import warm as warm_module
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


@pytest.fixture(scope="session")
def warm() -> Iterator[warm_module.Warm]:
    """Programs of ours without the seconds that each takes to import its libraries."""
    running = warm_module.Warm()
    yield running
    running.close()


@pytest.fixture
def warm_programs(warm: warm_module.Warm, monkeypatch) -> None:
    """HEAVY programs that core.programs starts in this process begin at once, with the same
    arguments, environment and limits."""
    fresh = subprocess.Popen
    confined, limits = programs.confined, programs._limits

    def start(command: list[str], *, env: dict[str, str], preexec_fn: int | None, **options: Any):
        _, _, module, *_ = command
        if module not in warm_module.HEAVY:
            before = confined(limits(preexec_fn))
            return fresh(command, env=env, preexec_fn=before, **options)
        return warm.program(command[2:], env=env, memory_bytes=preexec_fn, confined=True)

    # What is to be done before the program begins is said by its number alone, since only numbers
    # can be sent.
    monkeypatch.setattr(programs, "_limits", lambda memory_bytes: memory_bytes)
    monkeypatch.setattr(programs, "confined", lambda memory_bytes: memory_bytes)
    known = {name: getattr(subprocess, name) for name in ("DEVNULL", "PIPE", "TimeoutExpired")}
    monkeypatch.setattr(programs, "subprocess", SimpleNamespace(Popen=start, **known))


@pytest.fixture
def fresh_programs(monkeypatch) -> None:
    """For a test whose subject is the process itself: none is forked from a warm one."""
    monkeypatch.setattr(warm_module, "HEAVY", frozenset())

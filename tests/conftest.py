"""What every test stands on: a fixed cast of people, and pages without collected files."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, User

from core import programs
from tests.hub_server import Hub, running_hub
from tests.live import ROOT, Platform, running_platform
from tests.warm import HEAVY, Warm


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
def warm() -> Iterator[Warm]:
    """Programs that train, merge or try models without the seconds that each takes to import its
    libraries."""
    running = Warm("training")
    yield running
    running.close()


@pytest.fixture(scope="session")
def warm_readers() -> Iterator[Warm]:
    """The same for programs that read files or fetch them from the hub."""
    running = Warm("reading")
    yield running
    running.close()


@pytest.fixture
def warm_programs(warm: Warm, warm_readers: Warm, monkeypatch) -> None:
    """What core.programs starts in this process begins at once, with the same arguments,
    environment and limits; but not what a test has put in another folder in its place."""

    def start(
        command: list[str], *, cwd: Path, env: dict[str, str], preexec_fn: int | None, **more: Any
    ) -> Any:
        if cwd != ROOT:
            before = REAL["confined"](REAL["_limits"](preexec_fn))
            return subprocess.Popen(command, cwd=cwd, env=env, preexec_fn=before, **more)
        _python, _flag, *arguments = command
        kind = warm if arguments[0] in HEAVY else warm_readers
        return kind.program(arguments, env=env, memory_bytes=preexec_fn, confined=True)

    # What is to be done before the program begins is said by its number alone, since only numbers
    # can be sent.
    monkeypatch.setattr(programs, "_limits", lambda memory_bytes: memory_bytes)
    monkeypatch.setattr(programs, "confined", lambda memory_bytes: memory_bytes)
    known = {name: getattr(subprocess, name) for name in ("DEVNULL", "PIPE", "TimeoutExpired")}
    monkeypatch.setattr(programs, "subprocess", SimpleNamespace(Popen=start, **known))


REAL: dict[str, Any] = {
    name: getattr(programs, name) for name in ("_limits", "confined", "subprocess")
}


@pytest.fixture
def fresh_programs(warm_programs, monkeypatch) -> None:
    """For a test whose subject is the process itself: none is forked from a warm one."""
    for name, value in REAL.items():
        monkeypatch.setattr(programs, name, value)

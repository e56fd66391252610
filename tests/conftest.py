"""What every test stands on: a fixed cast of people, and pages without collected files."""

import gc
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, User
from pytest_django.plugin import blocking_manager_key

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


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    """A test process is no worker of a device, whatever an earlier test had it remember."""
    monkeypatch.setattr("jobs.devices.presence._own", {})


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


# What takes longest begins first, so that no test process is left with it alone at the end; where
# several test processes share the work, the order of the groups is that of their first tests.
LONGEST = (
    "platform-others",
    "platform-browser",
    "cluster",
    "test_second_machine.py",
    "test_slow_clients.py",
    "interoperability",
    "test_contract.py",
    "test_moved_home.py",
    "test_process.py",
    "test_odd_requests.py",
    "test_urls.py",
    "test_families.py",
)


# First, because pytest-xdist reads the groups in the same hook; and last, because pytest-django
# orders the tests there.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Give tests that share what takes long to set up to one test process."""
    for item in items:
        if name := group_of(item):
            item.add_marker(pytest.mark.xdist_group(name))
    yield
    items.sort(key=place_of)


def pytest_collection_finish() -> None:
    """What all imports have left behind is there to stay: each train collects garbage several times,
    and would look through millions of objects of ours each time."""
    gc.collect()
    gc.freeze()


def group_of(item: pytest.Item) -> str:
    """The platform of the browser tests, that of the others, the Ray cluster, the readers of older
    libraries, or what a module sets up for its own tests."""
    if item.path.parent.name == "interoperability":
        return "interoperability"

    known: dict[str, Any] = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009
    if "cluster" in known and known["cluster"][-1].scope == "package":
        return "cluster"
    if "platform" in known and known["platform"][-1].scope == "session":
        return "platform-browser" if item.path.parent.name == "browser" else "platform-others"

    own = {definition[-1].scope for definition in known.values()}
    return f"{item.path.parent.name}/{item.path.name}" if own & {"module", "class"} else ""


def place_of(item: pytest.Item) -> int:
    """Tests that empty the database, with what migrations have put there, come last, and of those
    the longest first."""
    if empties_database(item):
        return len(LONGEST) + (1 if item.path.name == "test_widths.py" else 2)
    names = {*(mark.args[0] for mark in item.iter_markers("xdist_group")), item.path.name}
    return min((LONGEST.index(name) for name in names & {*LONGEST}), default=len(LONGEST))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """The group Operators, which a migration made, is there again for the next test."""
    yield
    if empties_database(item):
        with item.config.stash[blocking_manager_key].unblock():
            import_module("people.migrations.0002_operators").make_group(apps, None)
            rights = ("0003_jobs", "0004_chains", "0005_exports", "0006_device_policy")
            for name in (*rights, "0007_conversations", "0008_sweeps"):
                import_module(f"people.migrations.{name}").give_rights(apps, None)


def empties_database(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("django_db")
    by_mark = marker is not None and marker.kwargs.get("transaction", False)
    fixtures = getattr(item, "fixturenames", ())
    return bool(by_mark or "transactional_db" in fixtures or "live_server" in fixtures)


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
    monkeypatch.setattr(programs, "confined", lambda memory_bytes, *more: memory_bytes)
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

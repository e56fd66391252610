"""A home that is copied elsewhere works there, and nothing of it leads back."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from core.store import located_path, make_path_relative, stored_path
from tests.live import ROOT

pytestmark = pytest.mark.long


def run_in(home: Path, step: str) -> str:
    env = os.environ | {
        "DEEPEXTENSION_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "DJANGO_SETTINGS_MODULE": "deepextension.settings",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.core.a_moved_home", step]
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def paths_in_database(home: Path) -> list[str]:
    """Every value in the database that names the home."""
    found = []
    with sqlite3.connect(home / "db.sqlite3") as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for row in database.execute(f'SELECT * FROM "{table}"'):
                found += [f"{table}: {value}" for value in row if str(home) in str(value)]
    return found


def paths_in_specs(home: Path) -> list[str]:
    return [str(path) for path in home.rglob("spec.json") if str(home) in path.read_text()]


def test_a_copied_home_resumes_its_trains(tmp_path, begun):
    new = tmp_path / "elsewhere" / "home"
    shutil.copytree(begun, new, symlinks=True)
    gone = begun.rename(begun.with_name("gone"))

    outcome = json.loads(run_in(new, "resume").splitlines()[-1])

    assert (outcome["status"], outcome["error"]) == ("finished", ""), outcome["log"]
    assert outcome["steps"] == [1, 2, 3, 4, 5, 6]
    assert outcome["rows"] == 5
    assert outcome["model_is_there"]
    assert outcome["download_bytes"] > 10_000
    gone.rename(begun)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A home with a train that has ended early."""
    home = tmp_path_factory.mktemp("first") / "home"
    run_in(home, "begin")
    return home


def test_neither_database_nor_specs_name_the_home(begun):
    assert paths_in_database(begun) == []
    assert paths_in_specs(begun) == []


def test_a_path_in_the_home_is_kept_without_it(settings, tmp_path):
    settings.HOME = tmp_path
    assert stored_path(tmp_path / "models" / "3") == "models/3"
    assert stored_path("/elsewhere/models/3") == "/elsewhere/models/3"
    for stored in ("models/3", "/elsewhere/models/3"):
        assert stored_path(located_path(stored)) == stored


def test_paths_of_earlier_versions_are_made_relative(settings, tmp_path):
    settings.HOME = tmp_path
    (tmp_path / "models" / "3").mkdir(parents=True)
    cases = {
        f"{tmp_path}/models/9": "models/9",
        # Stored before the home was copied to where it is now.
        "/gone/home/models/3": "models/3",
        "/gone/home/models/4": "/gone/home/models/4",
        "models/3": "models/3",
    }
    assert {text: make_path_relative(text, "models") for text in cases} == cases

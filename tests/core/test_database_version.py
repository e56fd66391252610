"""Old code on a newer database, and a home that is in use: both are refused before anything
changes."""

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from core.database_version import newer_database
from core.serving import home_lock

COMMANDS = ("serve", "install", "web", "train_worker", "jobs_worker", "watch")


@pytest.fixture(autouse=True)
def home(tmp_path, settings):
    settings.HOME = tmp_path
    settings.STATIC_ROOT = tmp_path / "static"
    return tmp_path


@pytest.fixture
def newer(db):
    MigrationRecorder(connection).record_applied("training", "9999_of_a_later_version")


def test_this_version_knows_its_own_database(db):
    assert newer_database() == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_old_code_refuses_a_newer_database(command, newer, home, capsys):
    before = sorted(MigrationRecorder(connection).applied_migrations())
    with pytest.raises(CommandError, match="later version of DeepExtension"):
        call_command(command)

    assert sorted(MigrationRecorder(connection).applied_migrations()) == before
    assert not get_user_model().objects.exists()
    assert [path.name for path in home.iterdir() if path.name != "serve.lock"] == []


def test_a_package_that_merged_its_migrations_is_no_newer_database(db):
    MigrationRecorder(connection).record_applied("knox", "9999_gone_since")
    assert newer_database() == ""


def test_setting_up_a_home_that_is_served_changes_nothing(db, home, monkeypatch):
    monkeypatch.setenv("DEEPEXTENSION_ADMIN_PASSWORD", "another-password-1")
    with home_lock(), pytest.raises(CommandError, match="running already"):
        call_command("install")

    assert not get_user_model().objects.exists()
    assert [path.name for path in home.iterdir()] == ["serve.lock"]

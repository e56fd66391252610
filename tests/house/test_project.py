"""The project as a whole: migrations, settings, documents."""

import ast
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import call_command

from engine.contract.rundir import EVENT_TYPES
from engine.messages.health import Thresholds

ROOT = Path(__file__).resolve().parents[2]


def test_no_migration_is_missing(db):
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_a_threshold_of_no_rule_is_told_at_the_start(settings):
    from training.checks import health_thresholds

    assert health_thresholds(None) == []
    settings.HEALTH_THRESHOLDS = {"spikes": 3.0}
    (error,) = health_thresholds(None)
    assert error.msg.startswith("DEEPEXTENSION_HEALTH: spikes is none of entropy, flat, gradient")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("spike=5, kl=0.5", "{'spike': 5.0, 'kl': 0.5}"),
        ("", "{}"),
        ("spike=high", "spike=5,kl=0.5: could not convert"),
    ],
)
def test_thresholds_are_read_from_the_environment(tmp_path, given, message):
    import os

    env = os.environ | {"DEEPEXTENSION_HOME": str(tmp_path), "DEEPEXTENSION_HEALTH": given}
    show = "from deepextension import settings; print(settings.HEALTH_THRESHOLDS)"
    ran = subprocess.run(
        [sys.executable, "-c", show], capture_output=True, text=True, cwd=ROOT, env=env, check=False
    )
    assert message in ran.stdout + ran.stderr


def test_it_passes_the_checks_for_deployment(monkeypatch, tmp_path):
    import os

    env = os.environ | {
        "DEEPEXTENSION_HOME": str(tmp_path),
        "DEEPEXTENSION_HTTPS": "1",
        "ALLOWED_HOSTS": "train.example",
    }
    result = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=env,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_it_refuses_to_start_with_any_host_allowed(tmp_path):
    import os

    env = os.environ | {"DEEPEXTENSION_HOME": str(tmp_path), "ALLOWED_HOSTS": "*"}
    result = subprocess.run(
        [sys.executable, "manage.py", "check"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=env,
        check=False,
    )
    assert result.returncode != 0
    assert "Name the hosts" in result.stderr


def test_every_setting_from_the_environment_is_documented():
    tree = ast.parse((ROOT / "deepextension" / "settings.py").read_text())
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and "env" in ast.unparse(node.func).split(".")[0:1]
    ]
    names = {
        node.args[0].value for node in calls if node.args and isinstance(node.args[0], ast.Constant)
    }
    assert "PORT" in names
    text = (ROOT / "docs" / "settings.md").read_text()
    assert {name for name in names if f"`{name}`" not in text} == set()


def test_the_methods_page_is_what_the_schemas_say(db):
    from methods.services import methods_install

    methods_install()
    before = (ROOT / "docs" / "methods.md").read_text()
    call_command("docs", verbosity=0)
    assert (ROOT / "docs" / "methods.md").read_text() == before


def test_every_make_target_that_the_readme_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert named
    assert named <= targets


def test_every_page_of_the_docs_is_linked_from_the_readme():
    readme = (ROOT / "README.md").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        assert f"docs/{path.name}" in readme


def test_files_that_documents_name_are_there():
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    name = re.compile(
        r"`((?:engine|core|training|tests|templates|static|[a-z]+_app|[a-z]+)/[\w./-]*\w\.\w+)`"
    )
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"var"}
    named = [
        (page.name, path)
        for page in pages
        for path in name.findall(page.read_text())
        if path.partition("/")[0] in folders
    ]
    assert len(named) > 60
    assert [where for where in named if not (ROOT / where[1]).exists()] == []


def test_every_rule_of_health_is_documented():
    codes = set(
        re.findall(r'Trouble\(\s*"(\w+)"', (ROOT / "engine" / "messages" / "health.py").read_text())
    )
    documented = set(
        re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "health.md").read_text(), re.MULTILINE)
    )
    assert documented == codes | {"loss_not_finite"} | {item.name for item in fields(Thresholds)}


def test_scripts_and_styles_come_from_this_host_only():
    csp = settings.CONTENT_SECURITY_POLICY["DIRECTIVES"]
    assert csp["script-src"] == csp["style-src"] == ["'self'"]
    for path in (ROOT / "templates").rglob("*.html"):
        text = path.read_text()
        assert not re.search(r"""(src|href)=["'](https?:)?//""", text), path
        assert " style=" not in text, path
        assert not re.search(r"<script(?![^>]*(src=|type=\"application/json\"))", text), path


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process runs all tests")
def test_tests_of_one_platform_run_in_one_process(request):
    """pytest-xdist keeps groups together by a mark on a test's id, which some releases of pytest
    lose."""
    shared = [
        item.nodeid
        for item in request.session.items
        if "platform" in getattr(item, "fixturenames", ())
    ]
    # A module's own platform keeps the module together.
    assert [nodeid for nodeid in shared if "@" not in nodeid] == []


def written_fields() -> dict[str, set[str]]:
    """{event type: fields} of every call in engine/ that writes an event with its type spelled
    out."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "engine").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            kind = node.args[0] if node.args else None
            if (
                node.func.attr in ("emit", "write")
                and isinstance(kind, ast.Constant)
                and kind.value in EVENT_TYPES
            ):
                found.setdefault(kind.value, set()).update(
                    item.arg for item in node.keywords if item.arg
                )
    return found


def test_the_table_of_events_names_what_the_engine_writes():
    text = (ROOT / "docs" / "run-directory.md").read_text()
    table = [
        line.split("|")
        for line in text.splitlines()
        if line.startswith("| `") and line.count("|") == 3
    ]
    documented = {kind: row[2] for row in table for kind in re.findall(r"`(\w+)`", row[1])}
    assert set(documented) >= EVENT_TYPES

    written = written_fields()
    assert set(written) == EVENT_TYPES
    missing = {
        (kind, name)
        for kind, names in written.items()
        for name in names
        if f"`{name}`" not in documented[kind]
    }
    assert missing == set()


def test_the_contract_names_every_path_of_a_run_directory():
    import engine.contract.rundir as contract

    paths = [contract.SPEC, contract.EVENTS, contract.LOG, contract.STOP, contract.SAVE]
    paths.append(contract.HELD_OUT)
    paths += [f"{folder}/" for folder in (contract.START, contract.CHECKPOINTS, contract.MODEL)]
    document = (ROOT / "docs" / "run-directory.md").read_text()
    for path in paths:
        assert path in (contract.__doc__ or ""), path
        assert f"`{path}" in document, path

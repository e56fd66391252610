"""Arrows between the floors of the house point down only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {
    "engine": 0,
    "core": 1,
    "accounts": 2,
    "datasets_app": 3,
    "models_app": 3,
    "methods": 3,
    "training": 4,
    "people": 5,
    "deepextension": 6,
}
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "safetensors", "gguf"}
# The web process imports these; the rest of the engine belongs to workers.
LIGHT = (
    "rundir.py",
    "formats.py",
    "turns.py",
    "examples.py",
    "detect.py",
    "offered.py",
    "rollout_parameters.py",
    "rows.py",
    "sniff.py",
    "plan.py",
    "parameters.py",
    "registry.py",
    "inspect_model.py",
)


def sources(package: str) -> list[Path]:
    found = [path for path in (ROOT / package).rglob("*.py") if "migrations" not in path.parts]
    assert found
    return found


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("package", FLOORS)
def test_it_imports_only_what_lies_below(package):
    for path in sources(package):
        for name in imports(path):
            target = name.partition(".")[0]
            if target in FLOORS and target != package:
                assert FLOORS[target] < FLOORS[package], f"{path.relative_to(ROOT)} imports {name}"


def test_the_engine_knows_no_web_framework_queue_or_database():
    for path in sources("engine"):
        found = {name.partition(".")[0] for name in imports(path)} & {
            "django",
            "rest_framework",
            "rq",
            "redis",
            "django_rq",
        }
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


@pytest.mark.parametrize("package", [name for name in FLOORS if name != "engine"])
def test_training_libraries_stay_in_the_engine(package):
    for path in sources(package):
        found = {name.partition(".")[0] for name in imports(path)} & HEAVY
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_what_the_web_uses_of_the_engine_is_light():
    for path in sources("engine"):
        if path.name in LIGHT:
            found = {name.partition(".")[0] for name in imports(path)} & HEAVY
            assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_the_web_process_loads_neither_torch_nor_arrays():
    """A fresh interpreter loads every URL, as the web server does, and looks at what came along."""
    program = (
        "import os, sys, django\n"
        "os.environ['DJANGO_SETTINGS_MODULE'] = 'deepextension.settings'\n"
        "django.setup()\n"
        "from django.urls import get_resolver\n"
        "from django.contrib import admin\n"
        "admin.autodiscover()\n"
        "def walk(patterns):\n"
        "    for pattern in patterns:\n"
        "        walk(pattern.url_patterns) if hasattr(pattern, 'url_patterns') else "
        "pattern.callback\n"
        "walk(get_resolver().url_patterns)\n"
        f"print(sorted({HEAVY | {'numpy', 'pyarrow'}!r} & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().splitlines()[-1] == "[]"

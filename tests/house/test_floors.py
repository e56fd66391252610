"""Arrows between the floors of the house point down only."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {
    "engine": 0,
    "core": 1,
    "jobs": 2,
    "accounts": 3,
    "datasets_app": 4,
    "models_app": 4,
    "methods": 4,
    "mirror": 5,
    "exports": 6,
    "training": 7,
    "chains": 8,
    "sweeps": 8,
    "serving": 9,
    "playground": 10,
    "openai_api": 10,
    "people": 11,
    "deepextension": 12,
}
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "safetensors", "gguf"}
# Rooms of the engine that the web process imports. The rest belongs to workers.
LIGHT = (
    "chat",
    "cluster",
    "contract",
    "doctor",
    "forecast",
    "messages",
    "models",
    "process",
    "rewards",
    "rows",
    "schema",
    "storage",
)
HALL = {"engine/__init__.py", "engine/__main__.py"}


def sources(package: str) -> list[Path]:
    found = [path for path in (ROOT / package).rglob("*.py") if "migrations" not in path.parts]
    assert found
    return found


def imports(path: Path, *, lazy: bool = True) -> set[str]:
    """Dotted names of all modules that a file imports, and of the names that it takes from them.

    lazy: those inside functions, and those for types alone, too.
    """
    names: set[str] = set()
    for node in statements(ast.parse(path.read_text()), lazy):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def statements(node: ast.AST, lazy: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        waits = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if lazy or not (waits or for_types):
            yield child
            yield from statements(child, lazy)


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


def rooms() -> list[str]:
    return sorted(path.parent.name for path in (ROOT / "engine").glob("*/__init__.py"))


def test_nothing_of_the_engine_lies_in_the_hall():
    flat = {f"engine/{path.name}" for path in (ROOT / "engine").glob("*.py")}
    assert flat == HALL
    assert set(LIGHT) < set(rooms())


@pytest.mark.parametrize("room", LIGHT)
def test_a_light_room_loads_no_training_library(room):
    """Inside functions it may: those run in workers."""
    for path in sources(f"engine/{room}"):
        found = {name.partition(".")[0] for name in imports(path, lazy=False)} & HEAVY
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


@pytest.mark.parametrize("package", [name for name in FLOORS if name != "engine"])
def test_the_web_imports_light_rooms_alone(package):
    for path in sources(package):
        for name in imports(path, lazy=False):
            room = name.split(".")[1] if name.startswith("engine.") else LIGHT[0]
            assert room in LIGHT, f"{path.relative_to(ROOT)} imports {name}"


def test_no_module_is_imported_by_what_it_imports():
    """Imports inside functions and for types count too: a circle is two modules that are one."""
    files = {module_name(path): path for package in FLOORS for path in sources(package)}
    graph = {name: imports(path) & files.keys() - {name} for name, path in files.items()}
    # Whatever nobody inside the rest imports, or imports nobody inside it, is in no circle.
    while True:
        imported = set().union(*graph.values())
        ends = {name for name, targets in graph.items() if not targets or name not in imported}
        if not ends:
            break
        graph = {name: targets - ends for name, targets in graph.items() if name not in ends}
    assert graph == {}


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


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

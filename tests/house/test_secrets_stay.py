"""Programs that the platform starts get a clean environment, and cannot look into their parents."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.processes import clean_environment, confined, judge_environment, proxy_environment
from engine.process import isolation
from tests.house.test_floors import ROOT, sources
from tests.live import CANARIES, CANARY

STARTS = {"run", "Popen", "call", "check_call", "check_output", "execv", "execve", "system"}
# These start the platform itself, which needs its own secrets.
OF_THE_PLATFORM = {"core/serving.py"}
CAN_CONFINE = "from engine.process.isolation import confine; print(confine())"


def starts(path: Path) -> list[ast.Call]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in STARTS
        ):
            owner = ast.unparse(node.func.value)
            if owner in ("subprocess", "os"):
                found.append(node)
    return found


@pytest.mark.parametrize(
    "package", ["accounts", "core", "datasets_app", "models_app", "methods", "mirror", "training"]
)
def test_every_program_that_is_started_gets_a_clean_environment(package):
    for path in sources(package):
        name = str(path.relative_to(ROOT))
        for call in starts(path) if name not in OF_THE_PLATFORM else ():
            given = ast.unparse(call)
            assert "clean_environment(" in given, f"{name}: {given[:80]}"
            assert "confined(" in given or "execve" in given, f"{name}: {given[:80]}"


def test_a_new_secret_is_kept_back_without_a_thought(monkeypatch):
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DATABASE_URL", "postgres://somebody:canary-database-000009@host/name")
    monkeypatch.setenv("REDIS_URL", "redis://:canary-redis-000010@host")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")

    clean = clean_environment(MORE="1")

    assert not CANARY.search(str(clean).encode())
    assert (clean["PATH"], clean["OMP_NUM_THREADS"], clean["MORE"]) == (
        os.environ["PATH"],
        "3",
        "1",
    )
    assert set(proxy_environment()) <= {
        "HTTPS_PROXY",
        "https_proxy",
        "no_proxy",
        "NO_PROXY",
        "http_proxy",
        "HTTP_PROXY",
    }
    assert "DEEPEXTENSION_JUDGE_KEY" in judge_environment()


SEALED = """
import ctypes, os, time
from engine.process.isolation import seal
seal(lambda name: name == "SHOWN")
library = ctypes.CDLL(None)
library.getenv.restype = ctypes.c_char_p
print(os.environ["HIDDEN"], library.getenv(b"HIDDEN").decode(), library.prctl(3, 0, 0, 0, 0), flush=True)
print(open("/proc/self/environ", "rb").read(), flush=True)
"""


@pytest.mark.skipif(not isolation.IS_LINUX, reason="/proc is Linux's")
def test_a_sealed_process_keeps_its_variables_and_shows_only_the_harmless_ones():
    env = {
        "PATH": os.environ["PATH"],
        "SHOWN": "for-all",
        "HIDDEN": "canary-hidden-000011",
        "EMPTY": "",
        "LAST": "x",
    }
    done = subprocess.run(
        [sys.executable, "-c", SEALED],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kept, shown = done.stdout.splitlines()
    # Own variables, the C library's, and PR_GET_DUMPABLE.
    assert kept == "canary-hidden-000011 canary-hidden-000011 0"
    assert "SHOWN=for-all" in shown
    assert "HIDDEN=********" in shown
    assert "canary" not in shown


LOOKS_UP = """
import os
try:
    found = open(f"/proc/{os.getppid()}/environ", "rb").read()
except OSError as error:
    found = type(error).__name__
try:
    os.kill(os.getppid(), 0)
    heard = True
except OSError:
    heard = False
os.makedirs("a"), os.makedirs("b"), open("a/file", "w").close(), os.rename("a/file", "b/file")
print(found, heard)
"""


def test_a_confined_program_cannot_look_into_its_parent_even_as_root_and_can_do_its_work(tmp_path):
    asked = subprocess.run(
        [sys.executable, "-c", CAN_CONFINE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    if asked.stdout.strip() != "True":
        pytest.skip("this kernel has no Landlock, or not yet one that can do this")
    done = subprocess.run(
        [sys.executable, "-c", LOOKS_UP],
        cwd=tmp_path,
        env=clean_environment(),
        preexec_fn=confined(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() in (["PermissionError", "False"], ["PermissionError", "True"]), (
        done.stderr
    )
    assert (tmp_path / "b" / "file").exists()


@pytest.mark.skipif(
    not isolation.IS_LINUX or os.getuid() != 0, reason="needs root, to become somebody else"
)
def test_a_sealed_process_is_closed_to_others_of_its_user_where_there_is_no_landlock():
    """As an ordinary user: root may look into everything that is not kept from it by Landlock."""
    program = (
        "import ctypes, os, sys\n"
        "from engine.process.isolation import seal\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n"
        "if 'sealed' in sys.argv: seal(lambda name: False)\n"
        "reading, writing = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n"
        "    try:\n"
        "        print(open(f'/proc/{os.getppid()}/environ', 'rb').read(5).decode(), flush=True)\n"
        "    except OSError as error:\n"
        "        print(type(error).__name__, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    answers = [
        subprocess.run(
            [sys.executable, "-c", program, *given],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for given in ([], ["sealed"])
    ]
    assert answers[0] != "PermissionError"
    assert answers[1] == "PermissionError"

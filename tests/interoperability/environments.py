"""Other versions of libraries than the platform's, each in a folder of its own and put together
once.

They lie in pytest's cache, under a name that follows from the pinned list: another list, another
folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

# `make interoperability` runs what takes minutes too.
ALL = os.environ.get("INTEROPERABILITY") == "all"


def packages(name: str, cache: Path) -> Path:
    """The folder with the packages that NAME.txt pins. Skips the test where they cannot be
    downloaded.
    """
    pins = HERE / f"{name}.txt"
    key = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = cache / f"{name}-{key}"
    if folder.is_dir():
        return folder

    unfinished = cache / f"{name}-{key}.{os.getpid()}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "--no-deps",
    ]
    command += ["--retries", "1", "--timeout", "20", "--target", str(unfinished), "-r", str(pins)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        shutil.rmtree(unfinished, ignore_errors=True)
        lines = ran.stderr.strip().splitlines() or ["pip said nothing"]
        pytest.skip(f"the packages of {pins.name} cannot be installed here: {lines[-1]}")
    try:
        unfinished.rename(folder)
    except OSError:
        # Another test process was faster.
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


class Reader:
    """reader.py in a process of its own, with other libraries before those of the virtual
    environment.
    """

    def __init__(self, overlay: Path) -> None:
        paths = os.pathsep.join([str(overlay), str(ROOT)])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.interoperability.reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": paths},
        )

    def ask(self, task: str, **given: Any) -> Any:
        """Raises AssertionError with the other side's traceback where the task fails there."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"task": task} | given
        self.process.stdin.write(json.dumps(request, default=str) + "\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline() or '{"error": "the reader has ended"}')
        assert "error" not in reply, reply["error"]
        return reply["result"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.process.terminate()
        self.process.wait()

"""Virtual environments for the peers that a benchmark compares with: created once, then reused."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

# The packages on which measurements depend most.
PACKAGES = (
    "django",
    "gunicorn",
    "rq",
    "redis",
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "pyarrow",
    "tokenizers",
)
ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "var" / "benchmarks"


def versions(*others: str) -> list[str]:
    """{package: version} of this environment, and `others`."""
    return [
        f"python=={platform.python_version()}",
        *(f"{name}=={version(name)}" for name in PACKAGES),
        *others,
    ]


def environment(name: str, *requirements: str) -> Path:
    """The Python of a virtual environment with exactly these packages, from the package index."""
    folder = HOME / name
    python, stamp = folder / "bin" / "python", folder / "requirements"
    wanted = "\n".join(requirements)
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"Setting up {name} in {folder.relative_to(ROOT)} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, *requirements], check=True)
        stamp.write_text(wanted)

    return python


def environment_of_thread_libraries(python: Path) -> dict[str, str]:
    """Variables with which a process preloads Intel's OpenMP (from the package index) and, if it is
    installed, tcmalloc: both speed up training on a CPU without changes to the program."""
    pip = [
        str(python),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "intel-openmp",
    ]

    subprocess.run(pip, check=True)
    libraries = [next(python.parent.parent.rglob("libiomp5.so"))]
    # Not its variants, which check or profile.
    libraries += list(Path("/usr/lib").rglob("libtcmalloc_minimal.so.4"))[:1]

    return {"LD_PRELOAD": ":".join(str(path) for path in libraries)}


def without_audio_and_vision(python: Path) -> None:
    """Prepare an environment for texts alone: torchvision and torchaudio of the package index cannot be
    loaded beside a CPU build of torch. transformers works without the first; the second is imported
    by name, so an empty module takes its place."""
    (packages,) = (python.parent.parent / "lib").glob("python*/site-packages")
    empty = packages / "torchaudio.py"
    if not empty.exists():
        pip = [
            str(python),
            "-m",
            "pip",
            "--disable-pip-version-check",
            "uninstall",
            "--quiet",
            "--yes",
        ]

        subprocess.run([*pip, "torchvision", "torchaudio"], check=True)
        empty.write_text("")

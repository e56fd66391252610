"""Environments of their own for the peers that a benchmark is held against: made once, then used
again."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

# Of these what is measured depends most.
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
    """What ran here, and `others`."""
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
    """Variables with which a process preloads Intel's OpenMP (from the package index) and, where it
    is installed, tcmalloc: what speeds up training on a CPU from outside."""
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
    found = [next(python.parent.parent.rglob("libiomp5.so"))]
    # Not its siblings, which check or profile.
    found += list(Path("/usr/lib").rglob("libtcmalloc_minimal.so.4"))[:1]

    return {"LD_PRELOAD": ":".join(str(path) for path in found)}


def without_sound_and_pictures(python: Path) -> None:
    """For texts alone: torchvision and torchaudio as the package index has them do not load beside
    a CPU build of torch. Without the first transformers does well; the second is imported by name,
    so an empty module stands there."""
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

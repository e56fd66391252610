"""The engine's source, as Ray sends it to the nodes: each train runs the code of the platform that
started it, whatever lies on the nodes. Libraries are the nodes' own (engine.cluster.versions)."""

from __future__ import annotations

import hashlib
import io
import zipfile
from functools import cache
from pathlib import Path

ENGINE = Path(__file__).resolve().parents[1]
SUFFIXES = frozenset({".py", ".json", ".txt", ".jinja", ".jinja2", ".md", ".toml", ".csv"})
# Zip files cannot be older. The same files give the same bytes, and so are sent once.
EPOCH = (1980, 1, 1, 0, 0, 0)


@cache
def source_files() -> tuple[Path, ...]:
    return tuple(
        sorted(
            path
            for path in ENGINE.rglob("*")
            if path.suffix in SUFFIXES and "__pycache__" not in path.parts
        )
    )


@cache
def engine_hash() -> str:
    """Of the source that this process runs; 12 digits."""
    found = hashlib.sha256()
    for path in source_files():
        found.update(f"{path.relative_to(ENGINE)}\0".encode())
        found.update(path.read_bytes())

    return found.hexdigest()[:12]


def package() -> tuple[str, bytes]:
    """A zip file whose one folder is `engine`, and its name in Ray's store."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in source_files():
            name = f"engine/{path.relative_to(ENGINE)}"
            archive.writestr(zipfile.ZipInfo(name, EPOCH), path.read_bytes())

    content = packed.getvalue()
    return f"_ray_pkg_{hashlib.sha256(content).hexdigest()[:32]}.zip", content

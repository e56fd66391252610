"""A folder as one ZIP file, made while it is sent: nothing is kept in memory or written to disk."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any, cast

from django.http import StreamingHttpResponse

BLOCK = 1 << 20


def file_stem(name: str, number: int, *, fallback: str) -> str:
    """A name for downloads: the row's own, of harmless characters only, and its id."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name).strip('-.')[:80] or fallback}-{number}"


def zip_response(
    folder: Path, name: str, *, without: Collection[str] = ()
) -> StreamingHttpResponse:
    """`name`: of the file, of harmless characters only. `without`: names of files to leave out."""
    response = StreamingHttpResponse(zip_stream(folder, without), content_type="application/zip")
    response["Content-Disposition"] = f'attachment; filename="{name}.zip"'
    response["X-Content-Type-Options"] = "nosniff"

    return response


class _Outbox:
    """A file that only takes writes and hands them on, as ZipFile wants it for unseekable
    output."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.blocks.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> Iterator[bytes]:
        blocks, self.blocks = self.blocks, []
        yield from blocks


def zip_stream(folder: Path, without: Collection[str] = ()) -> Iterator[bytes]:
    """Weights do not compress: stored, in blocks of a megabyte."""
    outbox = _Outbox()
    with zipfile.ZipFile(cast(IO[Any], outbox), "w", zipfile.ZIP_STORED) as archive:
        files = (path for path in folder.rglob("*") if path.is_file())
        for path in sorted(path for path in files if path.name not in without):
            with (
                archive.open(str(path.relative_to(folder)), "w", force_zip64=True) as entry,
                path.open("rb") as source,
            ):
                while block := source.read(BLOCK):
                    entry.write(block)
                    yield from outbox.take()

    yield from outbox.take()

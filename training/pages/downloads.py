"""A finished model as one ZIP file, made while it is sent: nothing is kept in memory or written to
disk."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from django.http import Http404, StreamingHttpResponse

from engine.contract.rundir import MODEL
from training.models import TrainRun

BLOCK = 1 << 20


def model_download(run: TrainRun) -> StreamingHttpResponse:
    """Raises Http404 where the train left no model (yet)."""
    folder = run.directory / MODEL
    if not folder.is_dir():
        raise Http404("This train has no model yet.")

    response = StreamingHttpResponse(zip_stream(folder), content_type="application/zip")
    response["Content-Disposition"] = f'attachment; filename="{file_stem(run)}.zip"'
    response["X-Content-Type-Options"] = "nosniff"

    return response


def file_stem(run: TrainRun) -> str:
    """A name for downloads: the train's own, of harmless characters only."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', run.name).strip('-.')[:80] or 'train'}-{run.pk}"


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


def zip_stream(folder: Path) -> Iterator[bytes]:
    """Weights do not compress: stored, in blocks of a megabyte."""
    outbox = _Outbox()
    with zipfile.ZipFile(cast(IO[Any], outbox), "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            with (
                archive.open(str(path.relative_to(folder)), "w", force_zip64=True) as entry,
                path.open("rb") as source,
            ):
                while block := source.read(BLOCK):
                    entry.write(block)
                    yield from outbox.take()

    yield from outbox.take()

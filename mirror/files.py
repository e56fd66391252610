"""One file of a repository as a response, whole or from where a download broke off."""

from __future__ import annotations

import io
import re
from typing import IO

from django.http import FileResponse, HttpResponse, HttpResponseBase
from rest_framework.request import Request

from mirror.answers import ENTRY, Missing
from models_app.repositories import Repository, RepositoryFile

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


class Part(io.RawIOBase):
    """`length` bytes of a file from where it stands."""

    def __init__(self, file: IO[bytes], length: int) -> None:
        super().__init__()
        self.file = file
        self.left = length

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        wanted = self.left if size < 0 else min(size, self.left)
        block = self.file.read(wanted)
        self.left -= len(block)
        return block

    def close(self) -> None:
        self.file.close()
        super().close()


def file_response(request: Request, repository: Repository, name: str) -> HttpResponseBase:
    """Raises Missing for a name that the repository does not have, or whose file is gone."""
    file = repository.files.get(name)
    if file is None:
        raise Missing(ENTRY, f"{name} does not exist in {repository.identity}.")

    try:
        stream = file.path.open("rb") if file.path else io.BytesIO(file.content)
    except OSError as error:
        raise Missing(ENTRY, f"{name} is gone from {repository.identity}.") from error

    wanted = _range(request, file)
    if wanted is not None and wanted.start >= file.size_bytes:
        stream.close()
        response: HttpResponseBase = HttpResponse(status=416)
        response["Content-Range"] = f"bytes */{file.size_bytes}"
        return response

    part = wanted if wanted is not None else range(file.size_bytes)
    stream.seek(part.start)
    response = FileResponse(
        Part(stream, len(part)),
        status=200 if wanted is None else 206,
        content_type="application/octet-stream",
        as_attachment=True,
        filename=name.rpartition("/")[2],
    )
    response["Content-Length"] = str(len(part))
    if wanted is not None:
        response["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{file.size_bytes}"

    _name(response, repository, file)
    return response


def _name(response: HttpResponseBase, repository: Repository, file: RepositoryFile) -> None:
    """The headers by which clients know what they have got already."""
    response["ETag"] = f'"{file.sha256}"'
    response["Accept-Ranges"] = "bytes"
    response["X-Repo-Commit"] = repository.commit
    response["X-Linked-Etag"] = f'"{file.sha256}"'
    response["X-Linked-Size"] = str(file.size_bytes)


def _range(request: Request, file: RepositoryFile) -> range | None:
    """The bytes that are asked for, None for all: also where several parts are, or the file has
    changed since the first one."""
    asked = _RANGE.fullmatch(request.headers.get("Range", ""))
    known = request.headers.get("If-Range")
    if asked is None or not any(asked.groups()) or known not in (None, f'"{file.sha256}"'):
        return None

    first, last = asked.groups()
    if not first:
        return range(max(0, file.size_bytes - int(last)), file.size_bytes)

    end = min(int(last) + 1 if last else file.size_bytes, file.size_bytes)
    start = int(first)
    # The last byte before the first: no range at all.
    return range(start, end) if start < end or start >= file.size_bytes else None

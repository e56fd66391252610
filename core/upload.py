"""Uploads go to disk as they arrive, hashed on the way; a refused or broken one leaves nothing
behind."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.http import HttpRequest

from core.errors import UserError
from core.store import require_disk

PREFIX = "upload-"
# What a form may add to its file: other fields, boundaries.
FORM_BYTES = 1 << 20
CHECK_DISK_EVERY_BYTES = 64 << 20
LEFTOVER_SECONDS = 24 * 3600


class ReceivedFile(UploadedFile):  # type: ignore[type-arg]
    """A complete file in the temporary folder. `keep_as` moves it away; `close` removes it if
    nothing did."""

    def __init__(
        self, file: IO[bytes], *, name: str, size: int, sha256: str, content_type: str = ""
    ) -> None:
        super().__init__(file, name, content_type, size)
        self.path: Path | None = Path(file.name)
        self.size_bytes = size
        self.sha256 = sha256
        self._is_written = False

    @classmethod
    def copy_of(cls, path: Path) -> ReceivedFile:
        """A copy of `path`, as if that had been uploaded. Raises UserError (507)."""
        size = path.stat().st_size
        require_disk(size, field="file")
        target = _temporary()

        with path.open("rb") as source, target:
            shutil.copyfileobj(source, target, 1 << 20)

        with Path(target.name).open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()

        return cls(target, name=path.name, size=size, sha256=sha256)

    @classmethod
    def joined(cls, parts: Iterable[Path], *, name: str, also: Any = None) -> ReceivedFile:
        """The files `parts`, one behind the other, as if that had been uploaded. also: a hash object
        that gets all bytes too. Raises UserError (507)."""
        parts = list(parts)
        size = sum(path.stat().st_size for path in parts)
        require_disk(size, field="file")
        digest = hashlib.sha256()
        target = _temporary()

        with target:
            for path in parts:
                with path.open("rb") as source:
                    while block := source.read(1 << 20):
                        digest.update(block)
                        target.write(block)
                        if also is not None:
                            also.update(block)

        return cls(target, name=name, size=size, sha256=digest.hexdigest())

    def write_through(self) -> None:
        """To the disk. Seconds for a large file: before a transaction, which others wait for."""
        assert self.path is not None
        if self._is_written:
            return

        with self.path.open("rb") as stream:
            os.fsync(stream.fileno())

        self._is_written = True

    def keep_as(self, path: Path) -> None:
        """Move to `path`, written through to the disk first."""
        assert self.path is not None
        self.write_through()
        self.path.rename(path)
        self.path = None

    def close(self) -> None:
        super().close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class DiskUploadHandler(FileUploadHandler):
    """Writes an upload to disk as Django's parser reads it. Raises UserError 413 and 507, before
    the body is read if its length says enough."""

    chunk_size = 1 << 20

    def __init__(self, request: HttpRequest | None = None) -> None:
        super().__init__(request)
        self.file: IO[bytes] | None = None

    def handle_raw_input(
        self,
        input_data: Any,
        META: dict[str, Any],  # noqa: N803 - the name that Django calls it by
        content_length: int,
        boundary: str | bytes,
        encoding: str | None = None,
    ) -> None:
        if content_length > settings.UPLOAD_LIMIT_BYTES + FORM_BYTES:
            raise UserError({"file": [too_large()]}, code="too_large", status=413)

        require_disk(content_length, field="file")

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        self.file = _temporary()
        self.digest = hashlib.sha256()

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        assert self.file is not None
        end = start + len(raw_data)
        is_check_due = start // CHECK_DISK_EVERY_BYTES != end // CHECK_DISK_EVERY_BYTES

        try:
            if end > settings.UPLOAD_LIMIT_BYTES:
                raise UserError({"file": [too_large()]}, code="too_large", status=413)
            if is_check_due:
                require_disk(0, field="file")

            self.file.write(raw_data)
        except BaseException:
            self._discard()
            raise

        self.digest.update(raw_data)

    def file_complete(self, file_size: int) -> ReceivedFile:
        assert self.file is not None
        self.file.close()
        received = ReceivedFile(
            self.file,
            name=self.file_name or "",
            size=file_size,
            sha256=self.digest.hexdigest(),
        )
        self.file = None

        return received

    def upload_interrupted(self) -> None:
        self._discard()

    def _discard(self) -> None:
        if self.file is not None:
            self.file.close()
            Path(self.file.name).unlink(missing_ok=True)
            self.file = None

    def __del__(self) -> None:
        # If the connection broke within a file, the parser's exception bypassed this handler.
        self._discard()


def _temporary() -> IO[bytes]:
    return tempfile.NamedTemporaryFile(
        dir=settings.FILE_UPLOAD_TEMP_DIR, prefix=PREFIX, delete=False
    )


def too_large() -> str:
    return (
        f"The file is larger than {settings.UPLOAD_LIMIT_BYTES / 1e9:,g} GB, the most that can "
        "be uploaded."
    )


def leftovers_remove() -> None:
    """Remove what a process that was killed in the middle of an upload left behind."""
    for path in Path(settings.FILE_UPLOAD_TEMP_DIR).glob(f"{PREFIX}*"):
        try:
            if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                path.unlink()
        except FileNotFoundError:
            continue

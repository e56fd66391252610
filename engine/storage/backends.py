"""A folder and a bucket: what is different between them. Names are relative to the storage's root;
each object has its digest beside it (in a folder) or in its metadata (in a bucket).

An object appears whole or not at all: a bucket takes uploads so, and a folder gets a file by
renaming it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import fsspec

from engine.contract.rundir import file_sha256
from engine.storage.errors import StorageFull, StorageRefused
from engine.storage.settings import StorageSettings

Content = Path | bytes

# Parts of a transfer. Of an upload two of them are in memory at once, for each file.
PART_BYTES = 8 << 20
PARTS_AT_ONCE = 2
MOST_PARTS = 9_000
NAMES_AT_ONCE = 1000

CONNECT_SECONDS = 5
# A server that says nothing for so long is away.
READ_SECONDS = 15
# A transfer that is slower than this is given up: a server that sends a byte now and then would
# otherwise hold it for ever.
SLOWEST_BYTES_PER_SECOND = 128 << 10
SECONDS_BESIDE = 30

AWAY_CODES = frozenset(
    {
        "BadDigest",
        "IncompleteBody",
        "InternalError",
        "NoSuchUpload",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "TooManyRequests",
        "XAmzContentSHA256Mismatch",
    }
)
FULL_CODES = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"})
KEY_CODES = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"})
# What the file system of a folder says where the machine behind it is gone.
AWAY_ERRNOS = frozenset(
    {
        errno.EHOSTDOWN,
        errno.EIO,
        errno.ENOTCONN,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
DIGESTS = ".digests"
UNFINISHED = ".unfinished"
# No file is written for so long without a byte; clocks of machines may differ.
UNFINISHED_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Digest:
    """The size in bytes and the SHA-256 of a file."""

    size: int
    sha256: str

    @classmethod
    def of(cls, content: Content) -> Digest:
        if isinstance(content, Path):
            return cls(content.stat().st_size, file_sha256(content))

        return cls(len(content), hashlib.sha256(content).hexdigest())


class Away(Exception):
    """The storage did not do it now. The text goes on after "The storage at …". came_on: part of it
    was done, and the next try goes on from there."""

    def __init__(self, what: str, *, came_on: bool = False) -> None:
        super().__init__(what)
        self.came_on = came_on


class Backend(Protocol):
    """All raise Away where it is worth to try again, StorageError where it is not, and
    FileNotFoundError for a name that is not there."""

    def check(self) -> None:
        """Raises where the root is not there."""

    def put(self, content: Content, name: str, digest: Digest) -> None: ...

    def fetch(self, name: str, path: Path, size: int) -> None:
        """Into the file `path`, which may have what an earlier try has fetched."""

    def read(self, name: str, size: int) -> bytes: ...

    def digest(self, name: str) -> Digest:
        """As it was put there, without reading it; its size is what there is."""

    def names(self, prefix: str) -> Iterator[str]:
        """All names that begin with `prefix`, which ends with a slash."""

    def delete(self, name: str) -> None:
        """One that is not there is deleted already."""


def backend_of(settings: StorageSettings) -> Backend:
    if settings.url.startswith("s3://"):
        return Bucket(settings)

    return Folder(settings)


class Folder:
    """A folder that all machines reach at the same path. It has to be there: where it is mounted and
    the mount is gone, nothing may be written beneath it."""

    def __init__(self, settings: StorageSettings) -> None:
        self.address = settings.address
        self.root = Path(urlsplit(settings.url).path)
        self.files = fsspec.filesystem("file")
        self.is_tidy = False

    def check(self) -> None:
        if not self.files.isdir(str(self.root)):
            raise Away("is not there")

    def put(self, content: Content, name: str, digest: Digest) -> None:
        self.check()
        unfinished = self.root / UNFINISHED
        temporary = unfinished / uuid.uuid4().hex
        beside = temporary.with_suffix(".digest")

        try:
            unfinished.mkdir(exist_ok=True)
            if not self.is_tidy:
                self.is_tidy = True
                _remove_old(unfinished)

            _write(content, temporary)
            beside.write_text(f"{digest.size} {digest.sha256}\n")

            # Whoever reads between the two finds them disagree, and reads again.
            for source, target in (
                (beside, self.root / DIGESTS / name),
                (temporary, self.at(name)),
            ):
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)
        except OSError as error:
            raise self.explained(error) from error
        finally:
            for path in (temporary, beside):
                path.unlink(missing_ok=True)

    def fetch(self, name: str, path: Path, size: int) -> None:
        with self.reading(name) as source, path.open("wb") as target:
            while block := self.read_block(source, 1 << 20):
                target.write(block)

    def read(self, name: str, size: int) -> bytes:
        with self.reading(name) as source:
            return self.read_block(source, size + 1)

    def read_block(self, source: Any, size: int) -> bytes:
        """Errors of the storage, and not of the disk that it is written to."""
        try:
            return bytes(source.read(size))
        except OSError as error:
            raise self.explained(error) from error

    def reading(self, name: str) -> Any:
        self.check()
        try:
            return self.files.open(str(self.at(name)), "rb")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self.explained(error) from error

    def digest(self, name: str) -> Digest:
        self.check()
        try:
            size = self.at(name).stat().st_size
            noted = (self.root / DIGESTS / name).read_text().split()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self.explained(error) from error

        return Digest(size, noted[1] if len(noted) == 2 else "")

    def names(self, prefix: str) -> Iterator[str]:
        self.check()
        for folder, _, files in os.walk(self.root / prefix, onerror=self.not_listed):
            for name in files:
                yield str((Path(folder) / name).relative_to(self.root))

    def not_listed(self, error: OSError) -> None:
        """Returns where nothing is below that name: an error must not look so, for what is taken to be
        gone is deleted elsewhere too."""
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise self.explained(error) from error

        self.check()

    def delete(self, name: str) -> None:
        self.check()
        try:
            for path in (self.at(name), self.root / DIGESTS / name):
                path.unlink(missing_ok=True)
                _remove_empty(path.parent, self.root)
        except OSError as error:
            raise self.explained(error) from error

    def at(self, name: str) -> Path:
        return self.root / name

    def explained(self, error: OSError) -> Exception:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StorageFull(self.address)
        if error.errno in AWAY_ERRNOS:
            return Away(f"does not answer ({os.strerror(error.errno)})")
        if isinstance(error, PermissionError):
            return StorageRefused(self.address, "may not be read or written by this user")

        return error


def _write(content: Content, path: Path) -> None:
    """Written to the disk when it returns."""
    with path.open("xb") as target:
        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
            shutil.copyfileobj(source, target, 1 << 20)

        target.flush()
        os.fsync(target.fileno())


def _remove_old(folder: Path) -> None:
    """Remove the files in `folder` that nobody has written to for a day: of processes that were killed."""
    for path in folder.iterdir():
        # Others remove them too, and some may be of another user.
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > UNFINISHED_SECONDS:
                path.unlink()


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove `folder`, and those above it, as far as they are empty."""
    while folder not in (root, root / DIGESTS):
        try:
            folder.rmdir()
        except OSError:
            # Another one has put something there, or removed it.
            return

        folder = folder.parent


class Bucket:
    """A bucket of an S3-compatible store. To be made in the process that uses it, and not before a
    fork: it has a thread that talks to the network."""

    def __init__(self, settings: StorageSettings) -> None:
        parts = urlsplit(settings.url)
        self.address = settings.address
        self.bucket = parts.netloc
        self.prefix = parts.path.strip("/")
        self.files = fsspec.filesystem(
            "s3",
            key=settings.key or None,
            secret=settings.secret or None,
            endpoint_url=settings.endpoint or None,
            client_kwargs={"region_name": settings.region} if settings.region else {},
            config_kwargs=_connection(settings),
            max_concurrency=PARTS_AT_ONCE,
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        # The store above tries again, with a bound on the time that it takes.
        self.files.retries = 2

    def check(self) -> None:
        try:
            self.call("head_bucket", Bucket=self.bucket)
        except FileNotFoundError as error:
            raise StorageRefused(self.address, f"has no bucket {self.bucket}") from error

    def put(self, content: Content, name: str, digest: Digest) -> None:
        metadata = {"sha256": digest.sha256}
        if isinstance(content, bytes):
            self.call(
                "put_object",
                Bucket=self.bucket,
                Key=self.key(name),
                Body=content,
                Metadata=metadata,
                seconds=_seconds(len(content)),
            )
            return

        self.run(
            self.files.put_file,
            str(content),
            f"{self.bucket}/{self.key(name)}",
            chunksize=max(PART_BYTES, digest.size // MOST_PARTS),
            ContentType="application/octet-stream",
            Metadata=metadata,
            seconds=_seconds(digest.size),
        )

    def fetch(self, name: str, path: Path, size: int) -> None:
        """Part by part, so that a line that breaks again and again does not begin again and
        again."""
        came_on = False
        with path.open("ab") as target:
            try:
                while (begin := target.tell()) < size:
                    block = self.read_part(name, begin, min(begin + PART_BYTES, size))
                    target.write(block)
                    came_on = True
                    if not block:
                        return
            except Away as error:
                error.came_on = came_on
                raise

    def read(self, name: str, size: int) -> bytes:
        return self.read_part(name, 0, size) if size else b""

    def read_part(self, name: str, begin: int, end: int) -> bytes:
        """From byte `begin` to `end`, or less where there is less."""
        path = f"{self.bucket}/{self.key(name)}"
        seconds = _seconds(end - begin)
        try:
            return bytes(self.run(self.files.cat_file, path, start=begin, end=end, seconds=seconds))
        except EOFError:
            return b""

    def digest(self, name: str) -> Digest:
        found = self.call("head_object", Bucket=self.bucket, Key=self.key(name))
        return Digest(found["ContentLength"], found.get("Metadata", {}).get("sha256", ""))

    def names(self, prefix: str) -> Iterator[str]:
        more: dict[str, Any] = {}
        while True:
            found = self.call(
                "list_objects_v2",
                Bucket=self.bucket,
                Prefix=self.key(prefix),
                MaxKeys=NAMES_AT_ONCE,
                **more,
            )
            for item in found.get("Contents", []):
                yield str(item["Key"]).removeprefix(self.key(""))

            if not found.get("IsTruncated"):
                return

            more = {"ContinuationToken": found["NextContinuationToken"]}

    def delete(self, name: str) -> None:
        self.call("delete_object", Bucket=self.bucket, Key=self.key(name))

    def key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def call(self, method: str, *, seconds: float | None = None, **values: Any) -> Any:
        return self.run(self.files.call_s3, method, seconds=seconds or SECONDS_BESIDE, **values)

    def run(self, work: Any, *values: Any, seconds: float, **named: Any) -> Any:
        """A call of s3fs that is cancelled after so many seconds."""
        try:
            return work(*values, timeout=seconds, **named)
        except Exception as error:
            explained = self.explained(error)
            if explained is error:
                raise

            raise explained from error

    def explained(self, error: Exception) -> Exception:
        """An error of the library in our terms. Those of this machine's own files stay."""
        response = getattr(error.__cause__ or error, "response", None)
        if isinstance(response, dict):
            return self.answered(error, response)

        kinds = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
        name = type(error).__name__
        if name in ("NoCredentialsError", "PartialCredentialsError"):
            return StorageRefused(self.address, "wants a key, and none is set")
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return StorageRefused(self.address, "has a certificate that is not trusted here")

        if isinstance(error, TimeoutError) or "Timeout" in name:
            return Away("does not answer in time")
        if kinds & {"aiohttp", "botocore", "aiobotocore", "urllib3"}:
            return Away("cannot be reached, or broke off")
        if isinstance(error, ConnectionError) or name == "gaierror":
            return Away("cannot be reached")

        return error

    def answered(self, error: Exception, response: dict[str, Any]) -> Exception:
        """What an answer means that is an error."""
        code = str(response.get("Error", {}).get("Code", ""))
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))

        if code in FULL_CODES or status == 507:
            return StorageFull(self.address)
        if code in AWAY_CODES or status >= 500 or status in (408, 429):
            return Away(f"answers with an error ({status or ''} {code})".replace("( ", "("))
        if code == "NoSuchBucket":
            return StorageRefused(self.address, f"has no bucket {self.bucket}")
        if code in KEY_CODES:
            return StorageRefused(self.address, "does not accept this key")
        if code == "RequestTimeTooSkewed":
            return StorageRefused(self.address, "says that the clock of this machine is wrong")
        if status == 403 or isinstance(error, PermissionError):
            return StorageRefused(self.address, "does not allow this with this key")
        if status == 416:
            return EOFError(code)
        if status == 404 or isinstance(error, FileNotFoundError):
            return FileNotFoundError(code)

        return StorageRefused(self.address, f"refuses ({status} {code})")


def _connection(settings: StorageSettings) -> dict[str, Any]:
    return {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "retries": {"total_max_attempts": 1},
        "max_pool_connections": 32,
        # Stores other than Amazon's have no host name for each bucket, and some know no checksums
        # besides their own.
        "s3": {"addressing_style": "path" if settings.endpoint else "auto"},
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }


def _seconds(size: int) -> float:
    return SECONDS_BESIDE + size / SLOWEST_BYTES_PER_SECOND

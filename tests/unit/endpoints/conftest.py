"""A workspace of a test's own, and a supervisor whose replicas are stand-ins."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finery.endpoints import replicas, tables
from finery.endpoints.supervisor import Supervisor
from finery.endpoints.values import Form
from finery.runners import process
from finery.workspace.place import Workspace
from finery.workspace.settings import Settings
from finery.workspace.store import connect
from postgres_server import postgres_server

PATIENCE = 30.0  # seconds until a test gives up on a process
STAND_IN = Path(__file__).with_name("stand_in.py")


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
    store = connect(database or f"sqlite:///{tmp_path / 'finery.sqlite'}")
    tables.metadata.create_all(store.engine)
    yield Workspace(tmp_path, Settings(), store)
    for lock in tmp_path.glob("replicas/*/*/*/lock"):
        process.stop(lock.parent, grace=5)
    tables.metadata.drop_all(store.engine)
    store.engine.dispose()


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(name: str, form: Form, folder: Path) -> tuple[str, ...]:
        ready = str(folder / replicas.READY)
        return (sys.executable, str(STAND_IN), form.model, "--name", name, "--ready", ready)

    monkeypatch.setattr(replicas, "command", command)
    monkeypatch.setattr(replicas, "GRACE", 1.0)


@pytest.fixture
def supervisor(workspace: Workspace, stand_ins: None) -> Supervisor:
    return Supervisor(workspace)


@pytest.fixture
def look_until(supervisor: Supervisor) -> Callable[[Callable[[], bool]], None]:
    """Let the supervisor look until something holds."""

    def look(holds: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < end, "it never came to hold"
            supervisor.look()
            time.sleep(0.01)

    return look

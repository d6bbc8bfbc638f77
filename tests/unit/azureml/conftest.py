"""The doors of the assets and blobs on a workspace of a test's own, without a process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from finery.azureml import assets, blobs, codes, datastores, errors
from finery.azureml.scope import ArmPaths
from finery.workspace import identity
from finery.workspace.place import Workspace
from finery.workspace.settings import Settings
from finery.workspace.store import connect, metadata


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace on SQLite."""
    folder = tmp_path / "service"
    folder.mkdir()
    store = connect(f"sqlite:///{folder / 'finery.sqlite'}")
    metadata.create_all(store.engine)
    return Workspace(folder, Settings(), store)


@pytest.fixture
def doors(workspace: Workspace) -> Iterator[TestClient]:
    """A client of the doors, with a token for storage."""
    app = FastAPI()
    app.state.workspace = workspace
    errors.install(app)
    for door in (assets, blobs, codes, datastores):
        app.include_router(door.router)
    app.add_middleware(ArmPaths)
    token = identity.mint(workspace, identity.STORAGE)
    with TestClient(app, raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        yield client

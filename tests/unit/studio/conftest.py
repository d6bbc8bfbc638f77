"""A studio over a small real store, and a browser that is signed in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

from workspaces import new_workspace

from finery.service.app import create_app
from finery.workspace import identity
from finery.workspace.place import Workspace

ORIGIN = "http://127.0.0.1"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty workspace, with a cache of its own."""
    monkeypatch.setenv("FINERY_HOME", str(tmp_path / "home"))
    return new_workspace(tmp_path / "service", users=("alice",))


@pytest.fixture
def app(workspace: Workspace) -> FastAPI:
    """The whole application; its background parts are not started."""
    return create_app(workspace)


@pytest.fixture
def stranger(app: FastAPI) -> TestClient:
    """A browser that never signed in."""
    return TestClient(app, ORIGIN, raise_server_exceptions=False, follow_redirects=False)


@pytest.fixture
def browser(stranger: TestClient, workspace: Workspace) -> TestClient:
    """A browser that opened the printed link."""
    link = identity.login_link(workspace, "/studio/")
    answer = stranger.get(link.removeprefix(workspace.settings.http_url))
    assert (answer.status_code, answer.headers["location"]) == (303, "/studio/")
    return stranger

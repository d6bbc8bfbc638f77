"""Runs wait in our store until MLflow has them, and artifact addresses go both ways."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from workspaces import new_workspace

from finery.azureml.tracking import _OWN_ADDRESS, _SIGNED_ADDRESS, _signed_address
from finery.errors import FineryError
from finery.workspace import identity, tracking
from finery.workspace.errors import UnauthenticatedError
from finery.workspace.place import Workspace
from finery.workspace.tracking_server import LONGEST_SOCKET_PATH, MARK, TrackingServer


def waiting(workspace: Workspace) -> list[Any]:
    with workspace.store.read() as connection:
        return list(connection.execute(sa.select(tracking.runs).where(tracking.pending)))


def test_a_run_waits_until_it_is_carried_over(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    tracking.create_run(workspace, "job", "", "", {"n": 1})  # pyright: ignore[reportArgumentType]
    (row,) = waiting(workspace)
    assert (row.experiment, row.name, row.status) == ("Default", "job", "RUNNING")
    assert row.tags == {"mlflow.rootRunId": "job", "n": "1"}
    with workspace.store.write() as connection:
        connection.execute(tracking.runs.update().values(written=row.revision))
    assert waiting(workspace) == []
    tracking.finish_run(workspace, "job", "Failed")
    (row,) = waiting(workspace)
    assert (row.status, row.ended_at is not None) == ("FAILED", True)


def test_saying_it_again_changes_nothing(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    for name in ("first", "second"):
        tracking.create_run(workspace, "job", "e", name, {"mlflow.rootRunId": "root"})
    (row,) = waiting(workspace)
    assert (row.name, row.revision, row.tags["mlflow.rootRunId"]) == ("first", 1, "root")


def test_a_run_that_nobody_made_cannot_end(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    tracking.finish_run(workspace, "nobody", "Completed")
    assert waiting(workspace) == []


def test_a_step_gets_a_token_for_tracking_alone(tmp_path: Path) -> None:
    silent = new_workspace(tmp_path)
    assert tracking.step_environment(silent, "step", "root", "e") == {"FINERY_ROOT_RUN_ID": "root"}
    workspace = replace(silent, settings=replace(silent.settings, tracking=True))
    found = tracking.step_environment(workspace, "step", "root", "e")
    assert found["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:8442/mlflow"
    assert found["MLFLOW_RUN_ID"] == "step"
    token = found["MLFLOW_TRACKING_TOKEN"]
    assert identity.verify(workspace, token, {identity.TRACKING}).subject == "job:step"
    with pytest.raises(UnauthenticatedError):
        identity.verify(workspace, token, identity.audiences(workspace))


def test_artifact_addresses_are_ours_on_the_way_out_and_mlflows_on_the_way_in(
    tmp_path: Path,
) -> None:
    workspace = new_workspace(tmp_path)
    stored = b'{"run": {"artifact_uri": "mlflow-artifacts:/1/abc/artifacts"}}'
    shown = stored.replace(_OWN_ADDRESS, _signed_address(workspace))
    assert shown.startswith(b'{"run": {"artifact_uri": "https://localhost:8443/mlflow/signed/')
    assert shown.endswith(b'/api/2.0/mlflow-artifacts/artifacts/1/abc/artifacts"}}')
    assert _SIGNED_ADDRESS.sub(b"mlflow-artifacts:", shown) == stored


def test_the_socket_fits_the_system_however_deep_the_folder(tmp_path: Path) -> None:
    deep = TrackingServer(new_workspace(tmp_path / ("d" * 120)))
    deep.folder.mkdir(parents=True)
    assert len(os.fsencode(deep.socket)) <= LONGEST_SOCKET_PATH
    assert deep.socket == deep.socket
    assert deep.socket.parent.stat().st_mode & 0o077 == 0


def test_mlflow_gets_none_of_a_persons_own_mlflow_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "theirs")
    server = TrackingServer(new_workspace(tmp_path))
    found = server._environment()
    assert "MLFLOW_TRACKING_URI" not in found
    assert "theirs" not in found.values()
    assert found[MARK] == str(server.folder)


def test_the_databases_password_is_no_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments are for every user of the machine to read."""
    url = sa.make_url("postgresql+psycopg://me:hidden@localhost/db")
    monkeypatch.setattr(TrackingServer, "database", url)
    monkeypatch.setattr(sa.schema, "CreateSchema", lambda *_, **__: sa.text("SELECT 1"))
    started: list[Any] = []
    monkeypatch.setattr("subprocess.Popen", lambda command, **how: started.append((command, how)))
    TrackingServer(new_workspace(tmp_path))._start()
    ((command, how),) = started
    assert "hidden" not in " ".join(command)
    assert "hidden" in how["env"]["MLFLOW_BACKEND_STORE_URI"]


def test_a_folder_for_the_socket_that_was_swept_away_is_made_anew(tmp_path: Path) -> None:
    deep = TrackingServer(new_workspace(tmp_path / ("d" * 120)))
    deep.folder.mkdir(parents=True)
    first = deep.socket.parent
    first.rmdir()
    assert deep.socket.parent != first
    assert deep.socket.parent.is_dir()


def test_a_service_that_ends_starts_no_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = TrackingServer(new_workspace(tmp_path))
    monkeypatch.setattr(TrackingServer, "_start", lambda self: pytest.fail("started"))
    server.close()
    with pytest.raises(FineryError, match="the service ends"):
        server.ensure()

"""Models of MLflow's registry: taken over once, whatever is cut off in between."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from finery.azureml import registered
from finery.workspace import assets
from finery.workspace.errors import UnavailableError
from finery.workspace.place import Workspace
from finery.workspace.tracking_models import Registered

MODELS = (
    "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
    "/models"
)
TABLES = (
    "CREATE TABLE model_versions (name TEXT, version INT, source TEXT, storage_location TEXT,"
    " run_id TEXT, description TEXT, creation_time INT, current_stage TEXT)",
    "CREATE TABLE model_version_tags (name TEXT, version INT, key TEXT, value TEXT)",
)


@pytest.fixture
def mlflow(workspace: Workspace) -> Iterator[sqlite3.Connection]:
    """MLflow's database, as far as it is read here, with the files of one model."""
    files = workspace.tracking / "artifacts" / "1" / "run" / "artifacts" / "model"
    files.mkdir(parents=True)
    (files / "weights.bin").write_bytes(b"first")
    file = workspace.tracking / "mlflow.sqlite"
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    for table in TABLES:
        connection.execute(table)
    yield connection
    connection.close()


@pytest.fixture(autouse=True)
def said(mlflow: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What MLflow was told of its versions; without a server, written at once."""
    told: dict[str, str] = {}

    def mark(workspace: Workspace, model: Registered, became: str) -> None:
        told[f"{model.name}/{model.version}"] = became
        values = (model.name, model.version, "finery.model", became)
        mlflow.execute("INSERT INTO model_version_tags VALUES (?, ?, ?, ?)", values)

    monkeypatch.setattr(registered, "mark_taken", mark)
    return told


def register(
    mlflow: sqlite3.Connection,
    name: str = "m",
    source: str = "mlflow-artifacts:/1/run/artifacts/model",
    stage: str = "None",
) -> None:
    values = (name, 1, source, None, "run", "words", 1000, stage)
    mlflow.execute("INSERT INTO model_versions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)


def test_a_model_of_mlflow_is_listed_and_shown(
    doors: TestClient, mlflow: sqlite3.Connection, said: dict[str, str]
) -> None:
    register(mlflow)
    assert [one["name"] for one in doors.get(MODELS).json()["value"]] == ["m"]
    shown = doors.get(f"{MODELS}/m/versions/1").json()["properties"]
    assert (shown["description"], shown["jobName"]) == ("words", "run")
    assert said == {"m/1": "azureml:m:1"}


def test_a_takeover_that_was_cut_off_makes_no_second_version(
    doors: TestClient,
    workspace: Workspace,
    mlflow: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
    said: dict[str, str],
) -> None:
    def dead(*_: object) -> None:
        raise UnavailableError("MLflow does not answer.")

    register(mlflow)
    with monkeypatch.context() as then:
        then.setattr(registered, "mark_taken", dead)
        assert doors.get(f"{MODELS}/m/versions/1").status_code == 200
    assert said == {}
    registered.take_over(workspace)
    assert said == {"m/1": "azureml:m:1"}
    assert len(assets.versions(workspace, "model", "", "m")) == 1


def test_what_mlflow_writes_anew_does_not_change_the_model(
    workspace: Workspace, mlflow: sqlite3.Connection
) -> None:
    register(mlflow)
    registered.take_over(workspace)
    (file,) = (workspace.tracking / "artifacts").rglob("weights.bin")
    file.write_bytes(b"second")
    (kept,) = workspace.blobs.rglob("weights.bin")
    assert kept.read_bytes() == b"first"


def test_a_model_that_was_deleted_does_not_come_back(
    doors: TestClient, workspace: Workspace, mlflow: sqlite3.Connection
) -> None:
    register(mlflow)
    registered.take_over(workspace)
    assert doors.delete(f"{MODELS}/m/versions/1").status_code == 200
    assert doors.get(MODELS).json()["value"] == []


@pytest.mark.parametrize(
    ("name", "source", "why"),
    [
        ("m", "mlflow-artifacts:/1/run/artifacts/none", "There are no files"),
        ("m", "s3://elsewhere/model", "There are no files at s3://elsewhere/model"),
        ("m", "mlflow-artifacts:/../../secrets", "Not taken over"),
        ("a name with spaces", "mlflow-artifacts:/1/run/artifacts/model", "letters, digits"),
    ],
)
def test_what_cannot_be_a_model_is_told_why_where_it_was_registered(
    workspace: Workspace,
    mlflow: sqlite3.Connection,
    said: dict[str, str],
    name: str,
    source: str,
    why: str,
) -> None:
    register(mlflow, name, source)
    registered.take_over(workspace)
    assert why in said[f"{name}/1"]
    assert assets.names(workspace, "model", "") == []


def test_versions_that_mlflow_deleted_are_no_models(
    workspace: Workspace, mlflow: sqlite3.Connection, said: dict[str, str]
) -> None:
    register(mlflow, stage="Deleted_Internal")
    registered.take_over(workspace)
    assert said == {}


def test_models_are_listed_while_mlflows_database_is_locked(
    doors: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(_: Workspace) -> None:
        raise UnavailableError("MLflow's database does not answer: locked.")

    monkeypatch.setattr(registered, "untaken", locked)
    assert doors.get(MODELS).status_code == 200


def test_a_workspace_that_never_had_mlflow_makes_no_database(
    doors: TestClient, workspace: Workspace, mlflow: sqlite3.Connection
) -> None:
    (workspace.tracking / "mlflow.sqlite").unlink()
    assert doors.get(MODELS).status_code == 200
    assert not Path(workspace.tracking / "mlflow.sqlite").exists()

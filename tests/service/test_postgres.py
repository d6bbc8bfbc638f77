"""The service on PostgreSQL: what it does on SQLite, and only one service a database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from azure.ai.ml import MLClient
from azure.ai.ml.entities import AmlCompute
from azure.identity import DefaultAzureCredential
from service_process import Service

from finery.workspace import tracking
from finery.workspace.place import Workspace
from finery.workspace.settings import load_settings
from finery.workspace.store import connect


@pytest.fixture(scope="module")
def on_postgres(
    service: Service, postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service on PostgreSQL; its variables replace the session's service's in this module."""
    home = tmp_path_factory.mktemp("postgres-home")
    found = Service(home, {"FINERY_DATABASE_URL": postgres}).start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        try:
            yield found
        finally:
            found.stop()


@pytest.fixture(scope="module")
def client(on_postgres: Service) -> Any:
    """An MLClient on it."""
    return MLClient(DefaultAzureCredential(), "test_subscription", "finery", "finery")


def psycopg(postgres: str) -> str:
    return postgres.replace("postgresql://", "postgresql+psycopg://")


def test_what_was_written_is_there_after_a_crash(on_postgres: Service, client: MLClient) -> None:
    cluster = AmlCompute(name="kept", size="Standard_NC6s_v3", max_instances=2)
    client.compute.begin_create_or_update(cluster).wait()
    on_postgres.kill()
    on_postgres.start()
    assert client.compute.get("kept").max_instances == 2


def test_every_table_lies_in_the_database_and_none_beside_it(
    on_postgres: Service, postgres: str
) -> None:
    engine = sa.create_engine(psycopg(postgres))
    tables = set(sa.inspect(engine).get_table_names())
    engine.dispose()
    assert {"computes", "tracking_runs", "assets", "jobs", "endpoints"} <= tables
    assert not list(on_postgres.folder.glob("finery.sqlite*"))


def test_a_second_service_on_the_database_is_refused(
    on_postgres: Service, postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("second")
    answer = subprocess.run(
        [sys.executable, "-m", "finery.cli.main", "up", "--foreground", "--port=0"],
        env=os.environ | {"FINERY_HOME": str(home), "FINERY_DATABASE_URL": postgres},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 1
    assert "Another finery service uses this database" in answer.stderr


def test_mlflow_keeps_the_runs_of_jobs_with_long_names(on_postgres: Service, postgres: str) -> None:
    mlflow = pytest.importorskip("mlflow")
    settings = load_settings(on_postgres.folder, {"http_port": on_postgres.running.http_port})
    store = connect(psycopg(postgres))
    workspace = Workspace(on_postgres.folder, settings, store)
    name = "00000000-1111-2222-3333-444444444444"
    tracking.create_run(workspace, name, "chat", "a step", {"mlflow.parentRunId": "root"})
    environment = tracking.step_environment(workspace, name, "root", "chat")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_TOKEN", environment["MLFLOW_TRACKING_TOKEN"])
        seen = mlflow.MlflowClient(environment["MLFLOW_TRACKING_URI"])
        seen.log_metric(name, "loss", 0.5)
        assert seen.get_run(name).data.metrics == {"loss": 0.5}
        tracking.finish_run(workspace, name, "Completed")
        assert seen.get_run(name).info.status == "FINISHED"
    store.engine.dispose()


@pytest.mark.parametrize(
    ("url", "said"),
    [("mysql://a/b", "postgresql or sqlite"), ("nonsense", "a URL such as")],
)
def test_another_database_is_refused(
    tmp_path_factory: pytest.TempPathFactory, url: str, said: str
) -> None:
    home = tmp_path_factory.mktemp("home")
    answer = subprocess.run(
        [sys.executable, "-m", "finery.cli.main", "up", "--foreground"],
        env=os.environ | {"FINERY_HOME": str(home), "FINERY_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 2
    assert said in answer.stderr

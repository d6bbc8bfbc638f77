"""Carrying runs from our store into MLflow, in the order in which they were said."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import httpx
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from finery.errors import FineryError, first_line
from finery.workspace.errors import UnavailableError
from finery.workspace.place import Workspace
from finery.workspace.tracking import pending, runs
from finery.workspace.tracking_server import TrackingServer

log = logging.getLogger("finery.tracking")
API = "/api/2.0/mlflow"


class Carrier:
    """Writes runs into the MLflow of one server."""

    def __init__(self, server: TrackingServer) -> None:
        self.server = server
        self.engine = sa.create_engine(server.database)
        self.experiments: dict[str, str] = {}
        self.tables: sa.MetaData | None = None

    def carry(self) -> None:
        """Take over everything that waits; what MLflow refuses is logged and set aside."""
        workspace = self.server.workspace
        if not _waiting(workspace):
            return
        client = self.server.client
        with self.server.lock:
            for row in _waiting(workspace):
                fault = ""
                try:
                    self._write(client, row)
                except (httpx.TransportError, OperationalError) as error:
                    text = f"MLflow does not take runs at the moment: {first_line(error)}."
                    raise UnavailableError(text) from error
                except UnavailableError:
                    raise
                except FineryError as error:
                    fault = str(error)
                    log.error("run %s is not in MLflow: %s", row.run_id, error)
                values = {"written": row.revision, "fault": fault}
                with workspace.store.write() as connection:
                    this = sa.and_(runs.c.seq == row.seq, runs.c.revision == row.revision)
                    connection.execute(runs.update().where(this).values(values))

    def _write(self, client: httpx.Client, row: sa.Row[Any]) -> None:
        experiment = self._experiment(client, row.experiment)
        self._insert(row, experiment)
        if row.ended_at is not None:
            end = {"run_id": row.run_id, "status": row.status, "end_time": _millis(row.ended_at)}
            _ask(client, "POST", f"{API}/runs/update", end)

    def _experiment(self, client: httpx.Client, name: str) -> str:
        """The id of the experiment called `name`, made or brought back where needed."""
        if name in self.experiments:
            return self.experiments[name]
        answer = client.get(f"{API}/experiments/get-by-name", params={"experiment_name": name})
        if answer.status_code == 404:
            found = _ask(client, "POST", f"{API}/experiments/create", {"name": name})
        else:
            found = _said(answer)["experiment"]
            if found["lifecycle_stage"] == "deleted":
                restore = {"experiment_id": found["experiment_id"]}
                _ask(client, "POST", f"{API}/experiments/restore", restore)
        self.experiments[name] = str(found["experiment_id"])
        return self.experiments[name]

    def _insert(self, row: sa.Row[Any], experiment: str) -> None:
        """The run with our id: a row as MLflow's own `create_run` writes it."""
        tables = self._tables()
        known, tags = tables.tables["runs"], tables.tables["tags"]
        values = {
            "run_uuid": row.run_id,
            "name": row.name,
            "source_type": "JOB",
            "source_name": "",
            "entry_point_name": "",
            "user_id": "",
            "status": "RUNNING",
            "start_time": _millis(row.started_at),
            "source_version": "",
            "lifecycle_stage": "active",
            "artifact_uri": f"mlflow-artifacts:/{experiment}/{row.run_id}/artifacts",
            "experiment_id": int(experiment),
        }
        said = {"mlflow.runName": row.name, **row.tags}
        with self.engine.begin() as connection:
            there = sa.select(known.c.run_uuid).where(known.c.run_uuid == row.run_id)
            if connection.execute(there).first() is not None:
                return
            connection.execute(known.insert().values(values))
            rows = [{"key": k, "value": v, "run_uuid": row.run_id} for k, v in said.items()]
            connection.execute(tags.insert(), rows)

    def _tables(self) -> sa.MetaData:
        if self.tables is None:
            tables = sa.MetaData()
            tables.reflect(self.engine, only=["runs", "tags"])
            self.tables = tables
        return self.tables


def _waiting(workspace: Workspace) -> list[sa.Row[Any]]:
    with workspace.store.read() as connection:
        return list(connection.execute(sa.select(runs).where(pending).order_by(runs.c.seq)))


def _ask(client: httpx.Client, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    return _said(client.request(method, path, json=body))


def _said(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_server_error:
        raise UnavailableError(f"MLflow answered {answer.status_code}: {answer.text[:500]}")
    if answer.is_error:
        raise FineryError(f"MLflow answered {answer.status_code}: {answer.text[:500]}")
    return answer.json()


def _millis(moment: datetime) -> int:
    return int(moment.replace(tzinfo=UTC).timestamp() * 1000)

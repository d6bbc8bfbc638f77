"""Endpoints as the store has them, without a process behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from finery.endpoints import replicas, service, tables
from finery.endpoints.gateway.request_log import FOLDER
from finery.endpoints.service import WantedDeployment, WantedEndpoint
from finery.workspace.place import Workspace
from finery.workspace.store import now

PRIMARY, SECONDARY = "primary-" + "p" * 20, "secondary-" + "s" * 20
BLUE_MODEL = "azureml://models/tuned/versions/1"


def put_endpoint(
    workspace: Workspace,
    name: str = "talk",
    traffic: Mapping[str, int] | None = None,
    deployments: tuple[str, ...] = ("blue", "green"),
    **values: Any,
) -> None:
    """An endpoint whose deployments answer, each with one replica."""
    service.put(workspace, WantedEndpoint(name, keys=(PRIMARY, SECONDARY), **values))
    for one in deployments:
        put_deployment(workspace, name, one)
    shares = traffic if traffic is not None else {deployments[0]: 100} if deployments else {}
    wire = {"properties": {"description": "kept"}}
    service.put(workspace, WantedEndpoint(name, traffic=shares, wire=wire, **values))


def put_deployment(
    workspace: Workspace,
    endpoint: str,
    name: str,
    *,
    model: str = BLUE_MODEL,
    state: str = "Succeeded",
    error: Mapping[str, str] | None = None,
    ready: int = 1,
) -> None:
    """A deployment in a state, with replicas that are ready as the store has it."""
    wire = {"properties": {"model": model}}
    service.put_deployment(workspace, WantedDeployment(endpoint, name, "/m", wire=wire))
    rows = tables.deployments
    with workspace.store.write() as connection:
        here = (rows.c.endpoint == endpoint, rows.c.name == name)
        connection.execute(rows.update().where(*here).values(state=state, error=error))
        for number in range(ready):
            report = {"engine": "torch", "precision": "int8", "context": 2048}
            row = {"id": f"{name}-{number}-0123456789", "endpoint": endpoint, "deployment": name}
            row |= {"revision": 1, "state": "ready", "port": 1, "key": "replica-secret"}
            row |= {"created_at": now(), "report": report, "host": "", "adapter": ""}
            connection.execute(tables.replicas.insert().values(row))


def write_replica_log(workspace: Workspace, endpoint: str, name: str, text: str) -> str:
    """Append to the log of a deployment's first replica; the replica's id."""
    replica = f"{name}-0-0123456789"
    path = replicas.deployment_folder(workspace, endpoint, name) / replica / replicas.LOG
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
    return replica


def write_requests(workspace: Workspace, endpoint: str, *lines: Mapping[str, Any]) -> None:
    """Append to the gateway's log of requests."""
    path = workspace.logs / FOLDER / f"{endpoint}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)

"""Endpoints and deployments: what is wanted of them. The supervisor makes it so."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from finery.endpoints import operations
from finery.endpoints.gateway import control
from finery.endpoints.rules import (
    engine_faults,
    name_faults,
    probe_faults,
    size_faults,
    traffic_faults,
)
from finery.endpoints.tables import deployments, endpoints, replicas
from finery.endpoints.values import AuthMode, Deployment, Endpoint, Probe, Replica
from finery.errors import Fault, InputError, did_you_mean
from finery.workspace.errors import ConflictError, NotFoundError
from finery.workspace.place import Workspace
from finery.workspace.store import now

# Of what a replica says of itself, what a user is shown.
REPORTED = ("engine", "precision", "context", "adapters", "proof", "choice", "seconds")


@dataclass(frozen=True)
class WantedEndpoint:
    """What a caller asks an endpoint to be."""

    name: str
    auth_mode: AuthMode = "key"
    traffic: Mapping[str, int] = field(default_factory=dict)
    mirror_traffic: Mapping[str, int] = field(default_factory=dict)
    wire: Mapping[str, Any] = field(default_factory=dict)
    keys: tuple[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class WantedDeployment:
    """What a caller asks a deployment to be."""

    endpoint: str
    name: str
    model: str
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    instance_count: int = 1
    at_once: int = 1
    timeout_seconds: float = 180.0
    liveness_probe: Probe = field(default_factory=Probe)
    readiness_probe: Probe = field(default_factory=Probe)
    engine: str = "auto"
    wire: Mapping[str, Any] = field(default_factory=dict)


def get(workspace: Workspace, name: str) -> Endpoint:
    """One endpoint; raises NotFoundError."""
    with workspace.store.read() as connection:
        return _endpoint(connection, name)


def find(workspace: Workspace) -> list[Endpoint]:
    """All endpoints, the newest first."""
    with workspace.store.read() as connection:
        rows = connection.execute(endpoints.select().order_by(endpoints.c.created_at.desc()))
        return [Endpoint(**row._mapping) for row in rows]


def put(workspace: Workspace, wanted: WantedEndpoint) -> Endpoint:
    """Create the endpoint or change it; its keys stay. Raises InputError with every fault."""
    with _told(workspace) as connection:
        row = connection.execute(_one(wanted.name)).one_or_none()
        there = {d.name for d in _deployments(connection, wanted.name) if d.state != "Deleting"}
        faults = name_faults(wanted.name, "endpoint")
        faults += traffic_faults(wanted.traffic, wanted.mirror_traffic, there)
        if faults:
            raise InputError(faults, f"endpoint {wanted.name}")
        values = {
            "auth_mode": wanted.auth_mode,
            "traffic": dict(wanted.traffic),
            "mirror_traffic": dict(wanted.mirror_traffic),
            "wire": dict(wanted.wire),
            "modified_at": now(),
        }
        if row is None:
            primary, secondary = wanted.keys or (_new_key(), _new_key())
            values |= {"primary_key": primary, "secondary_key": secondary}
            values |= {"name": wanted.name, "state": "Succeeded", "created_at": now()}
            connection.execute(endpoints.insert().values(values))
        else:
            _refuse_deleting(f"endpoint {wanted.name}", row.state)
            if row.auth_mode != wanted.auth_mode:
                raise ConflictError(
                    f"The endpoint {wanted.name} works with {row.auth_mode}s; that cannot be "
                    "changed. Delete it and create it anew."
                )
            connection.execute(_change(wanted.name).values(values))
        return _endpoint(connection, wanted.name)


def delete(workspace: Workspace, name: str) -> str | None:
    """Let the endpoint and its deployments go; the operation, None when it is not there."""
    with _told(workspace) as connection:
        row = connection.execute(_one(name)).one_or_none()
        if row is None:
            return None
        connection.execute(
            _change(name).values(state="Deleting", traffic={}, mirror_traffic={}, modified_at=now())
        )
        for deployment in _deployments(connection, name):
            _let_go(connection, deployment)
        return operations.begin(connection, "delete", name)


def deployment(workspace: Workspace, endpoint: str, name: str) -> Deployment:
    """One deployment; raises NotFoundError."""
    with workspace.store.read() as connection:
        return _deployment(connection, endpoint, name)


def deployments_of(workspace: Workspace, endpoint: str) -> list[Deployment]:
    """The deployments of an endpoint; raises NotFoundError when there is no such endpoint."""
    with workspace.store.read() as connection:
        _endpoint(connection, endpoint)
        return _deployments(connection, endpoint)


def reports_of(workspace: Workspace, endpoint: str) -> dict[str, dict[str, Any]]:
    """What the newest replica that answers said of itself, by deployment: engine, precision, …"""
    query = replicas.select().where(replicas.c.endpoint == endpoint, replicas.c.port > 0)
    with workspace.store.read() as connection:
        rows = connection.execute(query.order_by(replicas.c.created_at)).all()
    return {
        row.deployment: {name: one for name, one in row.report.items() if name in REPORTED}
        for row in rows
        if row.state != "starting"
    }


def replicas_of(workspace: Workspace, endpoint: str) -> list[Replica]:
    """The replicas of an endpoint's deployments, the oldest first."""
    query = replicas.select().where(replicas.c.endpoint == endpoint)
    with workspace.store.read() as connection:
        rows = connection.execute(query.order_by(replicas.c.created_at))
        return [Replica(**row._mapping) for row in rows]


def host_of(workspace: Workspace, endpoint: str, name: str) -> str:
    """The deployment whose process answers for this one too; "" when it has its own."""
    guest, host = replicas.alias(), replicas.alias()
    query = (
        sa.select(host.c.deployment)
        .join(guest, guest.c.host == host.c.id)
        .where(guest.c.endpoint == endpoint, guest.c.deployment == name)
    )
    with workspace.store.read() as connection:
        return connection.execute(query.order_by(guest.c.created_at.desc())).scalar() or ""


def put_deployment(workspace: Workspace, wanted: WantedDeployment) -> tuple[Deployment, str]:
    """Create or change a deployment, and the operation that ends when its replicas answer.

    Replicas of the old form serve until those of the new one do. Raises InputError with every
    fault, NotFoundError when there is no such endpoint.
    """
    if faults := deployment_faults(wanted):
        raise InputError(faults, f"deployment {wanted.name}")
    values: dict[str, Any] = asdict(wanted) | {"error": None, "modified_at": now()}
    with _told(workspace) as connection:
        endpoint = _endpoint(connection, wanted.endpoint)
        _refuse_deleting(f"endpoint {wanted.endpoint}", endpoint.state)
        row = connection.execute(_one_deployment(wanted.endpoint, wanted.name)).one_or_none()
        if row is None:
            values |= {"state": "Creating", "revision": 1, "created_at": now()}
            connection.execute(deployments.insert().values(values))
        else:
            _refuse_deleting(f"deployment {wanted.name}", row.state)
            values |= {"state": "Updating", "revision": row.revision + _needs_replicas(row, values)}
            connection.execute(change_deployment(wanted.endpoint, wanted.name).values(values))
        operation = operations.begin(connection, "put", wanted.endpoint, wanted.name)
        return _deployment(connection, wanted.endpoint, wanted.name), operation


def deployment_faults(wanted: WantedDeployment) -> list[Fault]:
    """What is wrong with a deployment in itself."""
    sizes = size_faults(wanted.instance_count, wanted.at_once, wanted.timeout_seconds)
    engine = engine_faults(wanted.engine)
    probes = (("livenessProbe", wanted.liveness_probe), ("readinessProbe", wanted.readiness_probe))
    looks = [fault for where, probe in probes for fault in probe_faults(where, probe)]
    return [*name_faults(wanted.name, "deployment"), *sizes, *engine, *looks]


def delete_deployment(workspace: Workspace, endpoint: str, name: str) -> str | None:
    """Let a deployment go; None when it is not there, ConflictError when it has traffic."""
    with _told(workspace) as connection:
        row = connection.execute(_one_deployment(endpoint, name)).one_or_none()
        if row is None:
            return None
        found = _endpoint(connection, endpoint)
        if share := found.traffic.get(name) or found.mirror_traffic.get(name):
            raise ConflictError(
                f"The deployment {name} has {share} % of the traffic of {endpoint}. Give the "
                "traffic to another deployment, or to none, before you delete it."
            )
        traffic = {key: value for key, value in found.traffic.items() if key != name}
        connection.execute(_change(endpoint).values(traffic=traffic))
        _let_go(connection, Deployment(**row._mapping))
        return operations.begin(connection, "delete", endpoint, name)


def change_deployment(endpoint: str, name: str) -> sa.Update:
    """An update of one deployment's row, to be completed."""
    return deployments.update().where(
        deployments.c.endpoint == endpoint, deployments.c.name == name
    )


@contextlib.contextmanager
def _told(workspace: Workspace) -> Iterator[sa.Connection]:
    """A transaction that the gateway knows of when whoever asked for it is answered."""
    with workspace.store.write() as connection:
        yield connection
    control.reload(workspace)


def _needs_replicas(row: Any, values: Mapping[str, Any]) -> bool:
    """Whether the replicas there are cannot serve the new form. One that failed gets new ones."""
    same = ("model", "engine", "environment", "at_once")
    return row.state == "Failed" or any(getattr(row, name) != values[name] for name in same)


def _let_go(connection: sa.Connection, deployment: Deployment) -> None:
    change = change_deployment(deployment.endpoint, deployment.name)
    connection.execute(change.values(state="Deleting", modified_at=now()))
    error = {"code": "OperationCanceled", "message": "The deployment was deleted."}
    operations.finish(
        connection, deployment.endpoint, deployment.name, "Canceled", error, kind="put"
    )


def _refuse_deleting(what: str, state: str) -> None:
    if state == "Deleting":
        raise ConflictError(f"The {what} is being deleted. Wait until it is gone.")


def _new_key() -> str:
    return secrets.token_urlsafe(32)


def _one(name: str) -> sa.Select[Any]:
    return endpoints.select().where(endpoints.c.name == name)


def _change(name: str) -> sa.Update:
    return endpoints.update().where(endpoints.c.name == name)


def _one_deployment(endpoint: str, name: str) -> sa.Select[Any]:
    return deployments.select().where(
        deployments.c.endpoint == endpoint, deployments.c.name == name
    )


def _endpoint(connection: sa.Connection, name: str) -> Endpoint:
    row = connection.execute(_one(name)).one_or_none()
    if row is None:
        raise _missing(f"endpoint {name}", name, _names(connection, endpoints.c.name))
    return Endpoint(**row._mapping)


def _deployment(connection: sa.Connection, endpoint: str, name: str) -> Deployment:
    row = connection.execute(_one_deployment(endpoint, name)).one_or_none()
    if row is None:
        _endpoint(connection, endpoint)
        there = [found.name for found in _deployments(connection, endpoint)]
        raise _missing(f"deployment {name} of endpoint {endpoint}", name, there)
    return Deployment(**row._mapping)


def _deployments(connection: sa.Connection, endpoint: str) -> list[Deployment]:
    query = deployments.select().where(deployments.c.endpoint == endpoint)
    rows = connection.execute(query.order_by(deployments.c.created_at, deployments.c.name))
    return [Deployment(**row._mapping) for row in rows]


def _names(connection: sa.Connection, column: sa.Column[Any]) -> list[str]:
    return list(connection.execute(sa.select(column)).scalars())


def _missing(what: str, name: str, there: list[str]) -> NotFoundError:
    return NotFoundError(f"There is no {what}. {did_you_mean(name, there)}".strip())

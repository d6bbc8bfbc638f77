"""Long-running operations: what a client asks about until it is over."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import timedelta

import sqlalchemy as sa

from finery.endpoints.tables import operations
from finery.endpoints.values import Operation
from finery.workspace.errors import NotFoundError
from finery.workspace.place import Workspace
from finery.workspace.store import now

KEPT = timedelta(days=7)


def begin(connection: sa.Connection, kind: str, endpoint: str, deployment: str = "") -> str:
    """A new operation, in the transaction of what it is about; long ended ones are forgotten."""
    identity = str(uuid.uuid4())
    connection.execute(operations.delete().where(operations.c.ended_at < now() - KEPT))
    connection.execute(
        operations.insert().values(
            id=identity,
            kind=kind,
            endpoint=endpoint,
            deployment=deployment,
            status="InProgress",
            created_at=now(),
        )
    )
    return identity


def finish(
    connection: sa.Connection,
    endpoint: str,
    deployment: str,
    status: str,
    error: Mapping[str, str] | None = None,
    *,
    kind: str,
) -> None:
    """End what is under way of that kind: a later request supersedes the ones before it."""
    connection.execute(
        operations.update()
        .where(
            operations.c.endpoint == endpoint,
            operations.c.deployment == deployment,
            operations.c.kind == kind,
            operations.c.status == "InProgress",
        )
        .values(status=status, error=dict(error) if error else None, ended_at=now())
    )


def get(workspace: Workspace, identity: str) -> Operation:
    """Where an operation stands; raises NotFoundError for one that never was."""
    with workspace.store.read() as connection:
        query = operations.select().where(operations.c.id == identity)
        row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFoundError(f"There is no operation {identity}.")
    return Operation(**row._mapping)

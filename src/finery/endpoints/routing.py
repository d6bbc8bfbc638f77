"""An endpoint as requests see it: its deployments, and the replicas that answer for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finery.endpoints.tables import deployments, endpoints, replicas
from finery.endpoints.values import Deployment, Endpoint, Replica
from finery.workspace.errors import NotFoundError
from finery.workspace.place import Workspace


@dataclass(frozen=True)
class Table:
    """An endpoint with its deployments and the replicas that answer."""

    endpoint: Endpoint
    deployments: Mapping[str, Deployment]
    replicas: Mapping[str, Sequence[Replica]]  # by deployment


def table(workspace: Workspace, name: str) -> Table:
    """What there is behind an endpoint now; raises NotFoundError."""
    with workspace.store.read() as connection:
        row = connection.execute(endpoints.select().where(endpoints.c.name == name)).one_or_none()
        if row is None:
            raise NotFoundError(f"There is no endpoint {name}.")
        found = connection.execute(deployments.select().where(deployments.c.endpoint == name))
        behind = {one.name: Deployment(**one._mapping) for one in found}
        living = connection.execute(
            replicas.select().where(replicas.c.endpoint == name, replicas.c.state == "ready")
        )
        ready = [Replica(**one._mapping) for one in living]
    by_deployment = {name: [r for r in ready if r.deployment == name] for name in behind}
    return Table(Endpoint(**row._mapping), behind, by_deployment)

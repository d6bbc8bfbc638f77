"""Which deployment and which replica answer a request: pure choices over what the store holds."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finery.endpoints.tables import deployments, endpoints, replicas
from finery.endpoints.values import Deployment, Endpoint, Replica
from finery.workspace.errors import NotFoundError, UnavailableError
from finery.workspace.place import Workspace

DRAWS = random.SystemRandom()
NEVER_SERVED = ("Creating", "Deleting")


@dataclass(frozen=True)
class Table:
    """An endpoint with its deployments and the replicas that answer."""

    endpoint: Endpoint
    deployments: Mapping[str, Deployment]
    replicas: Mapping[str, Sequence[Replica]]  # by deployment


class OverloadedError(UnavailableError):
    """More requests wait for a deployment than it takes."""


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


def choose(table: Table, named: str = "", draw: float | None = None) -> Deployment:
    """The deployment named, else one drawn by its share of traffic; raises NotFoundError.

    `draw` is a number from 0 up to 1.
    """
    where = f"endpoint {table.endpoint.name}"
    if named:
        if named not in table.deployments:
            there = ", ".join(sorted(table.deployments)) or "none"
            raise NotFoundError(f"The {where} has no deployment {named}. There is: {there}.")
        return table.deployments[named]
    shares = {n: s for n, s in table.endpoint.traffic.items() if s and n in table.deployments}
    if not shares:
        raise NotFoundError(
            f"The {where} gives traffic to no deployment. Set its traffic, or name a deployment "
            "in the header azureml-model-deployment."
        )
    point = (DRAWS.random() if draw is None else draw) * sum(shares.values())
    for name, share in shares.items():
        point -= share
        if point < 0:
            return table.deployments[name]
    return table.deployments[list(shares)[-1]]  # a sum of floats may fall short of the whole


def mirror(table: Table, draw: float | None = None) -> Deployment | None:
    """The deployment that gets a copy of this request, if one does."""
    for name, share in table.endpoint.mirror_traffic.items():
        point = 100 * (DRAWS.random() if draw is None else draw)
        if point < share and name in table.deployments:
            return table.deployments[name]
    return None


def pick(table: Table, deployment: Deployment, open_requests: Mapping[str, int]) -> list[Replica]:
    """The ready replicas of a deployment, the least busy first.

    Raises UnavailableError when there is none, OverloadedError when twice as many requests are
    under way as can be answered at a time (Azure's rule).
    """
    ready = table.replicas.get(deployment.name, [])
    if not ready or deployment.state in NEVER_SERVED:
        raise UnavailableError(
            f"The deployment {deployment.name} has no replica that answers yet (its state is "
            f"{deployment.state}). Try again in a moment; its log says more."
        )
    most = 2 * deployment.at_once * len(ready)
    if sum(open_requests.get(replica.id, 0) for replica in ready) >= most:
        raise OverloadedError(
            f"{most} requests are under way at the deployment {deployment.name}, and it takes no "
            "more. Try again in a moment, or give it more instances."
        )
    return sorted(ready, key=lambda replica: open_requests.get(replica.id, 0))

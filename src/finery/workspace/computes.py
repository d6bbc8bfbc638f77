"""Computes: names for machine sizes that jobs ask for.

Every compute of this workspace is this machine: its size says how many devices a job asks for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from finery.errors import Fault, InputError, did_you_mean
from finery.workspace.errors import ConflictError, NotFoundError, NotImplementedHereError
from finery.workspace.place import Workspace
from finery.workspace.sizes import Size, every_size, find_size, this_machine
from finery.workspace.store import metadata, now

computes = sa.Table(
    "computes",
    metadata,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("size", sa.String(255), nullable=False),
    sa.Column("low_priority", sa.Boolean, nullable=False),
    sa.Column("min_nodes", sa.Integer, nullable=False),
    sa.Column("max_nodes", sa.Integer, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("wire", sa.JSON, nullable=False),  # what was sent, to be echoed
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("modified_at", sa.DateTime, nullable=False),
)

# Names that mean this machine without anybody having made a compute.
SERVERLESS = frozenset({"", "serverless"})
KIND = "AmlCompute"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{1,63}")


@dataclass(frozen=True)
class Compute:
    """A compute cluster, as far as it has a meaning on one machine."""

    name: str
    size: str
    low_priority: bool = False
    min_nodes: int = 0
    max_nodes: int = 1
    description: str = ""
    tags: Mapping[str, str] | None = None
    wire: Mapping[str, Any] | None = None
    created_at: datetime | None = None
    modified_at: datetime | None = None


def create_or_update(workspace: Workspace, compute: Compute) -> Compute:
    """Make or change a compute; its size stays what it was made with."""
    _check(compute)
    size = find_size(compute.size)
    assert size is not None  # noqa: S101 - _check has refused it
    moment = now()
    values = {
        "size": size.name,
        "low_priority": compute.low_priority,
        "min_nodes": compute.min_nodes,
        "max_nodes": compute.max_nodes,
        "description": compute.description,
        "tags": dict(compute.tags or {}),
        "wire": dict(compute.wire or {}),
        "modified_at": moment,
    }
    with workspace.store.write() as connection:
        there = connection.execute(_row(compute.name)).first()
        if there is None:
            row = {"name": compute.name, "created_at": moment, **values}
            connection.execute(computes.insert().values(row))
        elif there.size != size.name:
            raise ConflictError(
                f"Compute {compute.name} is {there.size} and cannot become {size.name}. Delete "
                "it first, or choose another name."
            )
        else:
            this = computes.c.name == compute.name
            connection.execute(computes.update().where(this).values(values))
    return get(workspace, compute.name)


def get(workspace: Workspace, name: str) -> Compute:
    """The compute called `name`; raises NotFoundError."""
    with workspace.store.read() as connection:
        row = connection.execute(_row(name)).first()
    if row is None:
        raise NotFoundError(_missing(workspace, name))
    return Compute(**row._mapping)


def find(workspace: Workspace) -> list[Compute]:
    """Every compute, by name."""
    with workspace.store.read() as connection:
        rows = connection.execute(sa.select(computes).order_by(computes.c.name)).all()
    return [Compute(**row._mapping) for row in rows]


def delete(workspace: Workspace, name: str) -> None:
    """Remove a compute; raises NotFoundError. Jobs that were submitted to it keep its size."""
    with workspace.store.write() as connection:
        gone = connection.execute(computes.delete().where(computes.c.name == name)).rowcount
    if not gone:
        raise NotFoundError(_missing(workspace, name))


def size_of(workspace: Workspace, compute: str) -> Size:
    """What a job on `compute` (a name or an ARM id) asks for; "serverless" is this machine."""
    name = compute.removeprefix("azureml:").rsplit("/", 1)[-1]
    if name.lower() in SERVERLESS:
        return this_machine()
    size = find_size(get(workspace, name).size)
    if size is None:
        raise NotFoundError(f"The size of compute {name} is not one that finery knows any more.")
    return size


def _row(name: str) -> sa.Select[Any]:
    return sa.select(computes).where(computes.c.name == name)


def _missing(workspace: Workspace, name: str) -> str:
    names = [compute.name for compute in find(workspace)]
    there = f"There is: {', '.join(names)}." if names else "There is none yet."
    remedy = did_you_mean(name, names) or f"{there} Create it, or use serverless."
    return f"No compute is called {name}. {remedy}"


def _check(compute: Compute) -> None:
    faults = []
    where = f"compute {compute.name}"
    if not _NAME.fullmatch(compute.name):
        expected = "a letter, then letters, digits, - or _ (at most 64)"
        faults.append(Fault(f"{where}:name", repr(compute.name), expected))
    if find_size(compute.size) is None:
        near = did_you_mean(compute.size, [size.name for size in every_size()])
        remedy = near or "`compute.list_sizes()` lists them."
        expected = "a machine size that finery knows"
        faults.append(Fault(f"{where}:size", repr(compute.size), expected, remedy))
    if compute.max_nodes < 1:
        faults.append(Fault(f"{where}:max_instances", str(compute.max_nodes), "at least 1"))
    if not 0 <= compute.min_nodes <= max(compute.max_nodes, 1):
        expected = "a number from 0 to max_instances"
        faults.append(Fault(f"{where}:min_instances", str(compute.min_nodes), expected))
    if faults:
        raise InputError(faults)


def refuse_other_kinds(kind: str) -> None:
    """Only clusters exist here; raises NotImplementedHereError for the others by name."""
    if kind.lower() != KIND.lower():
        raise NotImplementedHereError(
            f"finery has no computes of type {kind or 'unknown'}. Use an AmlCompute: jobs on it "
            "run on this machine."
        )

"""The machine's cores and GPUs, and who may use them: first come, first served.

A claim stands in the store from the moment a step waits until it ends, and it goes in the same
transaction that ends the step: no claim can outlive its step.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import sqlalchemy as sa

from finery.jobs.spec import StepSpec
from finery.jobs.tables import jobs, leases
from finery.runners.base import Devices
from finery.workspace import machine
from finery.workspace.place import Workspace
from finery.workspace.store import now

# Built-in steps that keep a whole machine busy; the others want one core.
HEAVY = frozenset({"finery:chat_completion_finetune", "finery:chat_completion_evaluation"})


@dataclass(frozen=True)
class Machine:
    """What there is to share out."""

    cores: int
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class Need:
    """What a step waits for."""

    cores: int
    gpus: int = 0

    def within(self, there: Machine) -> Need:
        """The need that this machine can ever meet."""
        return Need(min(self.cores, there.cores), min(self.gpus, len(there.gpus)))


def this_machine() -> Machine:
    """The cores that we may use, and the numbers of the GPUs that we see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    numbers = [int(word) for word in visible if word.strip().isdigit()]
    return Machine(machine.cores(), tuple(numbers or range(machine.gpus()))[: machine.gpus()])


def need_of(step: StepSpec, there: Machine, size_gpus: int = 0) -> Need:
    """What a step wants of this machine; `size_gpus` are those of the compute it asks for."""
    if step.entry and step.entry not in HEAVY:
        return Need(1)
    asked = max(step.instance_count, 1) * max(step.process_count, size_gpus, 1)
    if not step.entry:  # a command: GPUs only where its compute has some
        return Need(1, asked if size_gpus else 0).within(there)
    if there.gpus:
        return Need(1, asked).within(there)
    return Need(there.cores)


def claim(connection: sa.Connection, job: str, need: Need, there: Machine) -> Devices | None:
    """What `job` may use, or None while it has to wait. Asking again keeps its place."""
    rows = connection.execute(sa.select(leases).order_by(leases.c.seq)).mappings().all()
    own = next((row for row in rows if row["job"] == job), None)
    if own is None:
        values = {"job": job, "cores": need.cores, "gpus": need.gpus, "gpu_ids": []}
        connection.execute(sa.insert(leases).values(values))
        rows = connection.execute(sa.select(leases).order_by(leases.c.seq)).mappings().all()
    granted = _grant(connection, list(rows), there)
    return granted.get(job)


def _grant(
    connection: sa.Connection, rows: list[sa.RowMapping], there: Machine
) -> dict[str, Devices]:
    """Grant claims in order until one does not fit: a large one is never passed by small ones."""
    held = {r["job"]: Devices(r["cores"], tuple(r["gpu_ids"])) for r in rows if r["granted_at"]}
    cores = there.cores - sum(devices.cores for devices in held.values())
    gpus = set(there.gpus) - {gpu for devices in held.values() for gpu in devices.gpus}
    for row in rows:
        if row["job"] in held:
            continue
        need = Need(row["cores"], row["gpus"]).within(there)
        if need.cores > cores or need.gpus > len(gpus):
            break
        ids = sorted(gpus)[: need.gpus]
        connection.execute(
            sa.update(leases)
            .where(leases.c.job == row["job"])
            .values(granted_at=now(), cores=need.cores, gpu_ids=ids)
        )
        held[row["job"]] = Devices(need.cores, tuple(ids))
        cores, gpus = cores - need.cores, gpus - set(ids)
    return held


def in_use(connection: sa.Connection) -> dict[str, Devices]:
    """What running steps hold of this machine, by job."""
    rows = connection.execute(sa.select(leases).where(leases.c.granted_at.is_not(None)))
    return {row["job"]: Devices(row["cores"], tuple(row["gpu_ids"])) for row in rows.mappings()}


def running_on(workspace: Workspace, compute: str) -> list[str]:
    """The jobs whose processes run on a compute, by name."""
    query = sa.select(jobs.c.name).where(
        jobs.c.compute == compute,
        jobs.c.name.in_(sa.select(leases.c.job).where(leases.c.granted_at.is_not(None))),
    )
    with workspace.store.read() as connection:
        return list(connection.execute(query.order_by(jobs.c.seq)).scalars())


def release(connection: sa.Connection, job: str) -> None:
    """Give back what `job` holds, or its place in the queue."""
    connection.execute(sa.delete(leases).where(leases.c.job == job))

"""Lists of jobs for people: narrow rows, narrowed by state, experiment and words.

A job's specification holds its whole submitted body; a list reads none of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from finery.jobs.capacity import Machine, in_use, this_machine
from finery.jobs.job import TERMINAL, Job
from finery.jobs.rows import job_of
from finery.jobs.tables import jobs
from finery.runners.base import Devices
from finery.workspace.place import Workspace

LONGEST_WORDS = 200  # characters of a search


@dataclass(frozen=True)
class Summary:
    """What a list says of a job."""

    seq: int
    name: str
    type: str
    experiment: str
    display_name: str
    status: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    error: Mapping[str, Any]

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in TERMINAL


_COLUMNS = tuple(jobs.c[field.name] for field in fields(Summary))


@dataclass(frozen=True)
class Use:
    """What running steps hold of this machine."""

    machine: Machine
    held: Mapping[str, Devices]  # by the step's job

    @property
    def cores(self) -> int:
        """Cores that are held."""
        return sum(devices.cores for devices in self.held.values())

    @property
    def gpus(self) -> tuple[int, ...]:
        """Numbers of the GPUs that are held."""
        return tuple(sorted(gpu for devices in self.held.values() for gpu in devices.gpus))


def page(
    workspace: Workspace,
    *,
    statuses: Collection[str] = (),
    experiment: str = "",
    words: str = "",
    limit: int = 50,
    before: int | None = None,
) -> tuple[list[Summary], int | None]:
    """Submitted jobs, newest first, and what to pass as `before` for the next page (None: no more).

    `words` is looked for in names and displayed names, capitals or not.
    """
    query = sa.select(*_COLUMNS).where(jobs.c.parent == "", jobs.c.archived.is_(False))
    if statuses:
        query = query.where(jobs.c.status.in_(list(statuses)))
    if experiment:
        query = query.where(jobs.c.experiment == experiment)
    if words := words.strip()[:LONGEST_WORDS]:
        found = (column.icontains(words, autoescape=True) for column in _WORDED)
        query = query.where(sa.or_(*found))
    if before is not None:
        query = query.where(jobs.c.seq < before)
    rows = _rows(workspace, query.order_by(jobs.c.seq.desc()).limit(limit + 1))
    return rows[:limit], rows[limit - 1].seq if len(rows) > limit else None


_WORDED = (jobs.c.name, jobs.c.display_name, jobs.c.experiment)


def running(workspace: Workspace, limit: int = 20) -> list[Summary]:
    """Submitted jobs that have not ended, newest first."""
    query = sa.select(*_COLUMNS).where(
        jobs.c.status.not_in(TERMINAL), jobs.c.parent == "", jobs.c.archived.is_(False)
    )
    return _rows(workspace, query.order_by(jobs.c.seq.desc()).limit(limit))


def experiments(workspace: Workspace) -> list[str]:
    """The experiments that jobs were submitted to, by name."""
    query = sa.select(jobs.c.experiment).where(jobs.c.parent == "").distinct()
    with workspace.store.read() as connection:
        return sorted(connection.execute(query).scalars())


def devices(workspace: Workspace) -> Use:
    """What is in use at this moment."""
    with workspace.store.read() as connection:
        return Use(this_machine(), in_use(connection))


def _rows(workspace: Workspace, query: sa.Select[Any]) -> list[Summary]:
    with workspace.store.read() as connection:
        rows = connection.execute(query).mappings().all()
    return [Summary(**{**row, "error": row["error"] or {}}) for row in rows]


def whole(workspace: Workspace, names: Collection[str]) -> list[Job]:
    """The jobs of these names with all that is known of them, oldest first."""
    query = sa.select(jobs).where(jobs.c.name.in_(list(names))).order_by(jobs.c.seq)
    with workspace.store.read() as connection:
        return [job_of(row) for row in connection.execute(query).mappings()]

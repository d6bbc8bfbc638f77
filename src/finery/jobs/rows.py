"""Reading and changing the rows of jobs, inside a transaction that the caller holds."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from finery.jobs.job import CANCEL_REQUESTED, CANCELED, COLUMNS, NOT_STARTED, TERMINAL, Job
from finery.jobs.tables import jobs
from finery.workspace.errors import NotFoundError
from finery.workspace.store import now


def job_of(row: sa.RowMapping) -> Job:
    """The job in a row."""
    values: dict[str, Any] = {name: row[name] for name in COLUMNS}
    values["error"] = values["error"] or None
    return Job(**values)


def read(connection: sa.Connection, name: str) -> Job:
    """The job called `name`; raises NotFoundError."""
    row = connection.execute(sa.select(jobs).where(jobs.c.name == name)).mappings().first()
    if row is None:
        raise NotFoundError(f"No job is called {name}. List the jobs to see their names.")
    return job_of(row)


def steps_of(connection: sa.Connection, root: str) -> list[Job]:
    """The steps of a job, in the order of its specification."""
    rows = connection.execute(
        sa.select(jobs).where(jobs.c.root == root, jobs.c.parent != "").order_by(jobs.c.seq)
    )
    return [job_of(row) for row in rows.mappings()]


def statuses(connection: sa.Connection, root: str) -> dict[str, str]:
    """The status of each step of a job, by the step's name."""
    query = sa.select(jobs.c.name, jobs.c.status).where(jobs.c.root == root, jobs.c.parent != "")
    return {row.name: row.status for row in connection.execute(query)}


def insert(connection: sa.Connection, values: list[dict[str, Any]]) -> None:
    """New jobs, not started; a name that is taken raises IntegrityError."""
    fresh = {
        "status": NOT_STARTED,
        "error": {},
        "created_at": now(),
        "archived": False,
        "inputs": {},
        "reuse": {},
        "reuse_key": "",
        "attempts": 0,
        "workflow": 0,
    }
    connection.execute(sa.insert(jobs), [fresh | row for row in values])


def advance(connection: sa.Connection, name: str, status: str, **values: Any) -> bool:
    """Move a job that has not ended to `status`; False when it has ended.

    Only an end takes the place of a wish to cancel.
    """
    wished = jobs.c.status == CANCEL_REQUESTED
    new = status if status in TERMINAL else sa.case((wished, CANCEL_REQUESTED), else_=status)
    changed = connection.execute(
        sa.update(jobs)
        .where(jobs.c.name == name, jobs.c.status.not_in(TERMINAL))
        .values(status=new, **values)
    )
    return changed.rowcount == 1


def end(
    connection: sa.Connection, name: str, status: str, error: dict[str, Any] | None, **values: Any
) -> bool:
    """The end of a job; False when it had ended before, which is then left as it was."""
    return advance(connection, name, status, error=error or {}, ended_at=now(), **values)


def end_unstarted(connection: sa.Connection, name: str) -> bool:
    """End a job as canceled if its workflow has not begun; whether that was so.

    One statement: a workflow that begins at the same moment comes before it or after it.
    """
    changed = connection.execute(
        sa.update(jobs)
        .where(jobs.c.name == name, jobs.c.status == NOT_STARTED)
        .values(status=CANCELED, ended_at=now())
    )
    return changed.rowcount == 1


def wish_to_cancel(connection: sa.Connection, names: Collection[str]) -> None:
    """Ask those of `names` that have not ended to end."""
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.name.in_(names), jobs.c.status.not_in(TERMINAL))
        .values(status=CANCEL_REQUESTED)
    )

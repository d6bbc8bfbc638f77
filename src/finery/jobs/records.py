"""Attempts at a step: a number, a token, and how each ended."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from finery.jobs.tables import attempts
from finery.workspace.store import now

LOST = "Lost"  # its process was ended from outside; other outcomes are a job's final words


@dataclass(frozen=True)
class Attempt:
    """One try at running a step's process."""

    job: str
    number: int
    token: str  # what its processes carry, and what no other attempt has
    outcome: str  # "" while it runs
    created_at: datetime


def open_attempt(connection: sa.Connection, job: str, number: int) -> Attempt:
    """The attempt with this number, made if it is not there."""
    where = (attempts.c.job == job, attempts.c.number == number)
    row = connection.execute(sa.select(attempts).where(*where)).mappings().first()
    if row is None:
        values = {
            "job": job,
            "number": number,
            "token": uuid.uuid4().hex,
            "outcome": "",
            "created_at": now(),
        }
        connection.execute(sa.insert(attempts).values(values))
        row = connection.execute(sa.select(attempts).where(*where)).mappings().one()
    return _attempt(row)


def open_attempts(connection: sa.Connection, job: str) -> list[Attempt]:
    """The attempts of a step whose end nobody has said yet, in order."""
    found = connection.execute(
        sa.select(attempts)
        .where(attempts.c.job == job, attempts.c.outcome == "")
        .order_by(attempts.c.number)
    )
    return [_attempt(row) for row in found.mappings()]


def was_attempted(connection: sa.Connection, job: str) -> bool:
    """Whether a step has an attempt, ended or not."""
    found = sa.select(attempts.c.number).where(attempts.c.job == job).limit(1)
    return connection.execute(found).first() is not None


def _attempt(row: sa.RowMapping) -> Attempt:
    return Attempt(row["job"], row["number"], row["token"], row["outcome"], row["created_at"])


def close_attempt(connection: sa.Connection, job: str, number: int, outcome: str) -> bool:
    """Say how an attempt ended; False when that was said before."""
    changed = connection.execute(
        sa.update(attempts)
        .where(attempts.c.job == job, attempts.c.number == number, attempts.c.outcome == "")
        .values(outcome=outcome, ended_at=now())
    )
    return changed.rowcount == 1

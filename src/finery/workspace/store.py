"""The SQL store: SQLite in the service's folder, or PostgreSQL by URL.

Every table of the service hangs on `metadata`; the subject that owns it declares it in its own
`tables.py`. SQLite runs in WAL mode with `synchronous=FULL`: what was committed survives a
power cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy import event

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = sa.MetaData(naming_convention=NAMING)


def now() -> datetime:
    """The present moment; every time in the store is UTC and naive."""
    return datetime.now(UTC).replace(tzinfo=None)


@dataclass(frozen=True)
class Store:
    """The tables of one service."""

    engine: sa.Engine

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that may write; committed at the end, rolled back on an error.

        On SQLite it takes the write lock at once (BEGIN IMMEDIATE), so what it reads cannot
        change before it writes. Keep network and file work out of it.
        """
        with self.engine.begin() as connection:
            if self.engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that reads one consistent state."""
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")
            yield connection


def connect(url: str) -> Store:
    """A store on `url`, whatever tables it has; `migrate` (workspace.migrations) makes them."""
    # Errors go to the log, and the rows of endpoints hold keys: values stay out of them.
    is_remote = not url.startswith("sqlite")
    engine = sa.create_engine(url, pool_pre_ping=is_remote, hide_parameters=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _sqlite_session)
    return Store(engine)


def _sqlite_session(connection: object, _record: object) -> None:
    """Durable, concurrent, strict about foreign keys; transactions begin where we say so."""
    connection.isolation_level = None  # pyright: ignore[reportAttributeAccessIssue]
    cursor = connection.cursor()  # pyright: ignore[reportAttributeAccessIssue]
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "busy_timeout=15000",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()

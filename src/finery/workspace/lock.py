"""One service at a time on one folder, and on one database."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from finery.workspace.errors import ConflictError
from finery.workspace.store import Store

ADVISORY = 0x66696E657279  # "finery": any number that nothing else in the database locks


@contextlib.contextmanager
def sole_service(folder: Path, store: Store) -> Iterator[None]:
    """Hold folder and database for this process; raises ConflictError when another has them.

    Both locks end with the process, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file, contextlib.ExitStack() as stack:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = (
                f"Another finery service runs on {folder}. Use it (`finery env`), stop it "
                "(`finery down`), or set FINERY_HOME to another folder."
            )
            raise ConflictError(text) from None
        if store.engine.dialect.name == "postgresql":
            stack.enter_context(_advisory(store))
        yield


@contextlib.contextmanager
def _advisory(store: Store) -> Iterator[None]:
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(ADVISORY))):
            text = (
                "Another finery service uses this database. Stop it, or set FINERY_DATABASE_URL "
                "to another database."
            )
            raise ConflictError(text)
        yield

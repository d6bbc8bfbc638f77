"""The store's tables, brought to the form that this version of finery expects.

A change of any table is a new file in `versions` with the next number, which HEAD then names; a
test holds the sum of them against the tables that the parts declare.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from finery.errors import FineryError
from finery.workspace.store import Store

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0002"
VERSIONS = Path(__file__).parent / "versions"


def migrate(store: Store) -> None:
    """Bring the tables to HEAD, in one transaction: wholly or not at all."""
    found = current(store)
    if found == HEAD:  # the common case, decided without loading alembic
        return
    if found and found > HEAD:
        text = (
            f"The database was written by a newer finery (its tables are at {found}, this version "
            f"knows {HEAD}). Upgrade finery, or use another database or FINERY_HOME."
        )
        raise FineryError(text)
    from alembic import command

    with store.write() as connection:
        settings = config()
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")


def current(store: Store) -> str:
    """The revision that the tables are at; "" when there are none."""
    if not sa.inspect(store.engine).has_table("alembic_version"):
        return ""
    with store.read() as connection:
        versions = sa.table("alembic_version", sa.column("version_num"))
        return connection.scalar(sa.select(versions.c.version_num)) or ""


def config() -> Config:
    """Alembic's settings: they are here, not in a file."""
    from alembic.config import Config

    found = Config()
    found.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return found

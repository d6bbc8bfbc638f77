"""The revisions make exactly the tables that the parts declare, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from finery.errors import FineryError
from finery.service.tables import metadata
from finery.workspace.migrations import HEAD, config, current, migrate
from finery.workspace.store import Store, connect
from postgres_server import postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with postgres_server() as url:
        named = sa.make_url(url).set(drivername="postgresql+psycopg")
        yield named.render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A database without tables."""
    if request.param == "sqlite":
        found = connect(f"sqlite:///{tmp_path / 'a.sqlite'}")
    else:
        found = connect(request.getfixturevalue("postgres"))
        with found.write() as connection:
            connection.execute(sa.text("DROP SCHEMA public CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))
    yield found
    found.engine.dispose()


def differences(store: Store) -> list[Any]:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))


def test_the_revisions_make_the_declared_tables(store: Store) -> None:
    migrate(store)
    assert differences(store) == []
    assert current(store) == HEAD


def test_a_second_time_changes_nothing(store: Store) -> None:
    migrate(store)
    migrate(store)
    assert differences(store) == []


def test_a_newer_database_is_refused(store: Store) -> None:
    migrate(store)
    with store.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(FineryError, match="written by a newer finery"):
        migrate(store)


def test_a_migration_that_fails_leaves_nothing_behind(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = command.upgrade

    def cut_short(*arguments: Any) -> None:
        upgrade(*arguments)
        raise OSError("the power went")

    monkeypatch.setattr(command, "upgrade", cut_short)
    with pytest.raises(OSError, match="the power went"):
        migrate(store)
    assert sa.inspect(store.engine).get_table_names() == []
    monkeypatch.undo()
    migrate(store)
    assert differences(store) == []


def test_the_newest_revision_is_head() -> None:
    assert ScriptDirectory.from_config(config()).get_current_head() == HEAD

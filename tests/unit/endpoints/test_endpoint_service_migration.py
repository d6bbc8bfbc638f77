"""Endpoints of the tables before: after the migration they are served as they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from finery.endpoints import service
from finery.endpoints.values import Form, Probe
from finery.service.tables import metadata
from finery.workspace.migrations import config, migrate
from finery.workspace.place import Workspace
from finery.workspace.settings import Settings
from finery.workspace.store import Store, connect

DAY = "2026-01-01 00:00:00"


@pytest.fixture(params=["sqlite", "postgres"])
def before(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A database at the first revision."""
    is_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'old.sqlite'}" if is_file else request.getfixturevalue("postgres")
    store = connect(url)
    with store.write() as connection:
        settings = config()
        settings.attributes["connection"] = connection
        command.upgrade(settings, "0001")
    yield store
    with store.write() as connection:
        connection.execute(sa.text("DROP TABLE alembic_version"))
    metadata.drop_all(store.engine)
    store.engine.dispose()


def write_old_rows(store: Store) -> None:
    probe = json.dumps({"period": 5.0, "timeout": 3.0, "failures": 4})
    with store.write() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO endpoints VALUES ('chat', 'key', '{\"blue\": 100}', '{}', '{}', "
                f"'Succeeded', 'p', 's', '{DAY}', '{DAY}')"
            )
        )
        for name, state in (("blue", "Succeeded"), ("green", "Failed")):
            connection.execute(
                sa.text(
                    "INSERT INTO deployments VALUES ('chat', :name, 'm', '{\"A\": \"1\"}', 2, 3, "
                    f"60.0, :probe, '{{}}', :state, NULL, 4, '{DAY}', '{DAY}')"
                ),
                {"name": name, "state": state, "probe": probe},
            )
        connection.execute(
            sa.text(
                "INSERT INTO replicas VALUES ('one', 'chat', 'blue', 4, 'ready', 1234, 'k', "
                f"'{DAY}')"
            )
        )


def test_deployments_keep_their_probe_and_know_the_form_they_serve(
    before: Store, tmp_path: Path
) -> None:
    write_old_rows(before)
    migrate(before)
    workspace = Workspace(tmp_path, Settings(), before)
    blue = service.deployment(workspace, "chat", "blue")
    assert Probe(**blue.liveness_probe) == Probe(period=5.0, timeout=3.0, failure_threshold=4)
    assert Probe(**blue.readiness_probe) == Probe()
    assert blue.proven == blue.form == Form(4, "m", "auto", {"A": "1"}, 3, 2)
    assert service.deployment(workspace, "chat", "green").proven is None
    assert service.reports_of(workspace, "chat") == {"blue": {}}
    assert service.get(workspace, "chat").traffic == {"blue": 100}

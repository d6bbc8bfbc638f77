"""Engines, readiness, what replicas report, shared processes, canaries."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add them; deployments that are there keep what they were."""
    with op.batch_alter_table("deployments") as table:
        table.alter_column("probe", new_column_name="liveness_probe")
        table.add_column(_new("engine", sa.String(length=20), "auto"))
        table.add_column(_new("readiness_probe", sa.JSON(), "{}"))
        table.add_column(sa.Column("served", sa.JSON(), nullable=True))
    for name in ("engine", "readiness_probe"):
        _without_default("deployments", name)
    _fill()
    with op.batch_alter_table("replicas") as table:
        table.add_column(_new("report", sa.JSON(), "{}"))
        table.add_column(_new("host", sa.String(length=36), ""))
        table.add_column(_new("adapter", sa.String(length=64), ""))
    for name in ("report", "host", "adapter"):
        _without_default("replicas", name)
    _make_canaries()


def _new(name: str, kind: sa.types.TypeEngine[Any], value: str) -> sa.Column[Any]:
    """A column that rows which are there get with `value`."""
    return sa.Column(name, kind, nullable=False, server_default=value)


def _without_default(table: str, column: str) -> None:
    """From now on every row says its own value."""
    with op.batch_alter_table(table) as batch:
        batch.alter_column(column, server_default=None)


def _fill() -> None:
    """Probes get Azure's words; what answers now is the form that a failed update goes back to."""
    kept = ("revision", "model", "environment", "at_once", "instance_count")
    names = ("endpoint", "name", "model", "state", "revision", "at_once", "instance_count")
    plain = [sa.column(name) for name in names]
    documents = [sa.column(name, sa.JSON) for name in ("environment", "liveness_probe", "served")]
    rows = sa.table("deployments", *plain, *documents)
    connection = op.get_bind()
    for row in connection.execute(sa.select(rows)).all():
        probe = dict(row.liveness_probe)
        if "failures" in probe:
            probe["failure_threshold"] = probe.pop("failures")
        values = {"liveness_probe": probe}
        if row.state == "Succeeded":
            values["served"] = {"engine": "auto", **{key: getattr(row, key) for key in kept}}
        this = (rows.c.endpoint == row.endpoint, rows.c.name == row.name)
        connection.execute(sa.update(rows).where(*this).values(values))


def _make_canaries() -> None:
    op.create_table(
        "endpoint_canaries",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("endpoint", sa.String(length=32), nullable=False),
        sa.Column("stable", sa.String(length=32), nullable=False),
        sa.Column("canary", sa.String(length=32), nullable=False),
        sa.Column("steps", sa.JSON(), nullable=False),
        sa.Column("guards", sa.JSON(), nullable=False),
        sa.Column("min_requests", sa.Integer(), nullable=False),
        sa.Column("step_seconds", sa.Float(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("step_since", sa.DateTime(), nullable=False),
        sa.Column("watch", sa.JSON(), nullable=False),
        sa.Column("history", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_endpoint_canaries")),
    )
    op.create_index(
        op.f("ix_endpoint_canaries_endpoint_state"),
        "endpoint_canaries",
        ["endpoint", "state"],
        unique=False,
    )

"""The tables of jobs: one row a job or step, one an attempt, one a claim on devices."""

from __future__ import annotations

import sqlalchemy as sa

from finery.workspace.store import metadata

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),  # the order of submission
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("type", sa.String(20), nullable=False),
    sa.Column("parent", sa.String(255), nullable=False),  # "" of a job that somebody submitted
    sa.Column("root", sa.String(255), nullable=False, index=True),
    sa.Column("step_path", sa.String(255), nullable=False),
    sa.Column("experiment", sa.String(255), nullable=False),
    sa.Column("display_name", sa.String(255), nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("properties", sa.JSON, nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("error", sa.JSON, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("started_at", sa.DateTime),
    sa.Column("ended_at", sa.DateTime),
    sa.Column("archived", sa.Boolean, nullable=False),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("inputs", sa.JSON, nullable=False),
    sa.Column("outputs", sa.JSON, nullable=False),
    sa.Column("compute", sa.String(255), nullable=False),
    sa.Column("reuse", sa.JSON, nullable=False),
    sa.Column("reuse_key", sa.String(64), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("workflow", sa.Integer, nullable=False),  # how often its workflow was begun anew
    sa.Index("ix_jobs_page", "parent", "archived", "seq"),
    sa.Index("ix_jobs_experiment_page", "parent", "experiment", "archived", "seq"),
    sa.Index("ix_jobs_reuse", "reuse_key", "status"),
    sa.Index("ix_jobs_status", "status"),
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("job", sa.String(255), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("token", sa.String(64), nullable=False, unique=True),
    sa.Column("outcome", sa.String(20), nullable=False),  # "" while it runs
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("ended_at", sa.DateTime),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),  # the order of asking
    sa.Column("job", sa.String(255), nullable=False, unique=True),
    sa.Column("cores", sa.Integer, nullable=False),
    sa.Column("gpus", sa.Integer, nullable=False),
    sa.Column("gpu_ids", sa.JSON, nullable=False),
    sa.Column("granted_at", sa.DateTime),  # null while it waits
)

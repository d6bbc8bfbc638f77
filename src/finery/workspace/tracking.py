"""Runs of jobs in MLflow: said here, in our own store, and carried over when MLflow is up.

The run of a job has the job's name for its id, which MLflow's own API cannot make. A job never
waits for MLflow and never fails with it: what is to be said lies in `tracking_runs` until the
tracking server has taken it (workspace/tracking_server.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from finery.workspace import identity
from finery.workspace.place import Workspace
from finery.workspace.store import metadata, now

runs = sa.Table(
    "tracking_runs",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run_id", sa.String(255), nullable=False, unique=True),
    sa.Column("experiment", sa.String(255), nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("status", sa.String(20), nullable=False),  # MLflow's word
    sa.Column("started_at", sa.DateTime, nullable=False),
    sa.Column("ended_at", sa.DateTime),
    sa.Column("revision", sa.Integer, nullable=False),  # of what is to be said
    sa.Column("written", sa.Integer, nullable=False),  # the revision that MLflow has
    sa.Column("fault", sa.Text, nullable=False),  # why MLflow refused it, "" when it did not
)
pending = sa.and_(runs.c.written < runs.c.revision, runs.c.fault == "")

DEFAULT_EXPERIMENT = "Default"
# A step may wait and run for weeks, and its token is good for tracking alone.
TOKEN_SECONDS = 90 * 24 * identity.HOUR
_STATUSES = {
    "completed": "FINISHED",
    "finished": "FINISHED",
    "failed": "FAILED",
    "canceled": "KILLED",
    "killed": "KILLED",
}


def create_run(
    workspace: Workspace, run_id: str, experiment: str, name: str, tags: Mapping[str, str]
) -> None:
    """Let MLflow have a run of this id; saying it again changes nothing."""
    values = {
        "run_id": run_id,
        "experiment": experiment or DEFAULT_EXPERIMENT,
        "name": name or run_id,
        "tags": {"mlflow.rootRunId": run_id, **{key: str(tag) for key, tag in tags.items()}},
        "status": "RUNNING",
        "started_at": now(),
        "revision": 1,
        "written": 0,
        "fault": "",
    }
    with workspace.store.write() as connection:
        there = sa.select(runs.c.seq).where(runs.c.run_id == run_id)
        if connection.execute(there).first() is None:
            connection.execute(runs.insert().values(values))


def finish_run(workspace: Workspace, run_id: str, status: str) -> None:
    """Let a run end with a job's status; a run that nobody made is left alone."""
    values = {
        "status": _STATUSES.get(status.lower(), "FAILED"),
        "ended_at": now(),
        "revision": runs.c.revision + 1,
        "fault": "",
    }
    with workspace.store.write() as connection:
        connection.execute(runs.update().where(runs.c.run_id == run_id).values(values))


def step_environment(
    workspace: Workspace, run_id: str, root: str, experiment: str
) -> dict[str, str]:
    """The variables with which a process logs to its job's run."""
    if not workspace.settings.tracking:
        return {"FINERY_ROOT_RUN_ID": root}
    token = identity.mint(
        workspace, identity.TRACKING, subject=f"job:{run_id}", seconds=TOKEN_SECONDS
    )
    return {
        "MLFLOW_TRACKING_URI": f"{workspace.settings.http_url}/mlflow",
        "MLFLOW_TRACKING_TOKEN": token,
        "MLFLOW_EXPERIMENT_NAME": experiment or DEFAULT_EXPERIMENT,
        "MLFLOW_RUN_ID": run_id,
        "FINERY_ROOT_RUN_ID": root,
    }

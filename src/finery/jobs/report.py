"""Telling others about jobs: the execution log, MLflow, and the compute that a step runs on."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from finery.jobs.job import CANCELED, COMPLETED, FAILED, Job
from finery.jobs.runtime import Runtime
from finery.workspace import computes, tracking
from finery.workspace.errors import NotFoundError
from finery.workspace.sizes import Size, this_machine

log = logging.getLogger("finery.jobs")

ROOT_RUN = "FINERY_ROOT_RUN_ID"
_MLFLOW = {COMPLETED: "FINISHED", FAILED: "FAILED", CANCELED: "KILLED"}


def size_of(runtime: Runtime, job: Job) -> Size:
    """The size that a step asks for; of a compute that was deleted since, this machine's."""
    try:
        return computes.size_of(runtime.workspace, job.compute)
    except NotFoundError:
        return this_machine()


def note(runtime: Runtime, job: Job, text: str) -> None:
    """A line about a step in the log of its pipeline; a command job has its own log alone."""
    if job.parent:
        runtime.log(job.root).say(f"{job.step_path}: {text}")


def begin_run(runtime: Runtime, job: Job) -> None:
    """Make the MLflow run of a job, whose id is the job's name."""
    tags = {str(name): str(value) for name, value in job.tags.items()}
    tags["mlflow.rootRunId"] = job.root
    if job.parent:
        tags["mlflow.parentRunId"] = job.parent
    with _apart(job):
        tracking.create_run(runtime.workspace, job.name, job.experiment, job.display_name, tags)


def finish_run(runtime: Runtime, job: Job) -> None:
    """Say in MLflow how the job ended."""
    with _apart(job):
        tracking.finish_run(runtime.workspace, job.name, _MLFLOW[job.status])


def step_environment(runtime: Runtime, job: Job) -> dict[str, str]:
    """The variables with which a process logs to the run of its job."""
    found: dict[str, str] = {}
    with _apart(job):
        found = tracking.step_environment(runtime.workspace, job.name, job.root, job.experiment)
    return {**found, ROOT_RUN: job.root}


@contextlib.contextmanager
def _apart(job: Job) -> Iterator[None]:
    """A job does not fail because its metrics cannot be kept: the service's log says so."""
    try:
        yield
    except Exception:
        log.exception("MLflow does not know what became of job %s", job.name)

"""A job as it stands: what was asked for, and what became of it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from finery.jobs.spec import JobSpec, StepSpec, job_from_json, step_from_json
from finery.workspace.place import ARTIFACT_CONTAINER, Workspace

NOT_STARTED, QUEUED, PREPARING = "NotStarted", "Queued", "Preparing"
STARTING, RUNNING, FINALIZING = "Starting", "Running", "Finalizing"
COMPLETED, FAILED, CANCELED = "Completed", "Failed", "Canceled"
CANCEL_REQUESTED = "CancelRequested"
TERMINAL = frozenset({COMPLETED, FAILED, CANCELED})

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_STEP_NAMES = uuid.UUID("6f1d52de-6f0b-4b7e-9a52-3f0a6cf3b1aa")
STD_LOG, EXECUTION_LOG = "user_logs/std_log.txt", "logs/azureml/executionlogs.txt"


@dataclass(frozen=True)
class Job:
    """A job, or a step of one, which is a job with a parent."""

    seq: int
    name: str
    type: str  # pipeline, command, finetuning; a step is a command
    parent: str
    root: str
    step_path: str
    experiment: str
    display_name: str
    description: str
    tags: Mapping[str, str]
    properties: Mapping[str, str]
    status: str
    error: Mapping[str, Any] | None  # code, message, step
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    archived: bool
    spec: Mapping[str, Any]  # a JobSpec, or of a step a StepSpec
    inputs: Mapping[str, Any]  # resolved: type, value, path or source, uri, content_hash
    outputs: Mapping[str, Any]  # type, uri, path
    compute: str
    reuse: Mapping[str, Any]  # from, why
    reuse_key: str
    attempts: int

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in TERMINAL

    @property
    def is_step(self) -> bool:
        """Whether it runs as one process: a step of a pipeline, or a command job."""
        return bool(self.parent) or self.type == "command"

    @property
    def wire(self) -> Mapping[str, Any]:
        """The body as it was submitted."""
        return self.spec.get("wire", {})

    @property
    def job_spec(self) -> JobSpec:
        """What was submitted; of a step, raises KeyError."""
        return job_from_json(self.spec)

    @property
    def step(self) -> StepSpec:
        """What the process is to do."""
        return step_from_json(self.spec) if self.parent else self.job_spec.steps[0]


COLUMNS = tuple(field.name for field in fields(Job))


def child_name(job: str, path: str) -> str:
    """The name of the job that is the step at `path`: always the same."""
    return str(uuid.uuid5(_STEP_NAMES, f"{job}/{path}"))


def artifacts(workspace: Workspace, name: str) -> Path:
    """Where a job's logs lie: in the datastore, and at the place, where clients look for them."""
    return workspace.blobs / ARTIFACT_CONTAINER / "ExperimentRun" / f"dcid.{name}"


def std_log(workspace: Workspace, name: str) -> Path:
    """What the process of a step says, over all its attempts."""
    return artifacts(workspace, name) / STD_LOG


def execution_log(workspace: Workspace, name: str) -> Path:
    """What happens in a pipeline."""
    return artifacts(workspace, name) / EXECUTION_LOG


def attempt_folder(workspace: Workspace, job: Job, number: int) -> Path:
    """Where the process of an attempt has its lock and its last word."""
    return workspace.jobs / job.root / job.name / str(number)

"""A job as a run of the run history: what the clients stream, download and list children from."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from urllib.parse import quote

from finery.azureml.job_views import services
from finery.azureml.scope import Target
from finery.azureml.wire import moment
from finery.jobs import service
from finery.jobs.job import Job
from finery.workspace import identity
from finery.workspace.place import Workspace

ARTIFACTS = "/_artifacts"
SDK_VERSION = re.compile(r"azure-ai-ml/(\d+)\.(\d+)")
# Up to here the SDK looks for UriFolder among the types of a run's outputs, then for uri_folder.
LAST_WITH_CAPITALS = (1, 34)
CAPITALS = {"uri_file": "UriFile", "uri_folder": "UriFolder", "mltable": "MLTable"}


def run_view(workspace: Workspace, target: Target, job: Job, user_agent: str) -> dict[str, Any]:
    """A job as a run."""
    return {
        "runId": job.name,
        "runNumber": job.seq,
        "rootRunId": job.root or job.name,
        "parentRunId": job.parent or None,
        "experimentId": job.experiment,
        "displayName": job.display_name,
        "description": job.description or None,
        "status": job.status,
        "hidden": job.archived,
        "runType": "azureml.StepRun" if job.parent else "azureml.PipelineRun",
        "tags": dict(job.tags),
        "properties": _properties(job),
        "services": _run_services(workspace, target, job),
        "createdUtc": _time(job.created_at),
        "startTimeUtc": _time(job.started_at),
        "endTimeUtc": _time(job.ended_at),
        "createdBy": {"userName": "owner"},
        "compute": {"target": job.compute or "serverless"},
        "error": error_view(job),
        "inputs": {},
        "outputs": _outputs(job, user_agent),
    }


def details_view(workspace: Workspace, target: Target, job: Job, user_agent: str) -> dict[str, Any]:
    """A run with its log files, each at an address that needs no token."""
    run = run_view(workspace, target, job, user_agent)
    shared = ("runId", "rootRunId", "parentRunId", "status", "tags", "properties", "services")
    more = ("startTimeUtc", "endTimeUtc", "error", "inputs", "outputs", "compute", "createdBy")
    return {
        **{key: run[key] for key in (*shared, *more)},
        "createdTimeUtc": run["createdUtc"],
        "target": run["compute"]["target"],
        "warnings": [],
        "logFiles": {
            log.name: log_address(workspace, job.name, log.name)
            for log in service.log_files(workspace, job.name)
        },
    }


def log_address(workspace: Workspace, job: str, log: str) -> str:
    """An address of a log file that holds for an hour and needs no token."""
    path = log_path(job, log)
    query = identity.sign_query(workspace, path)
    return f"{workspace.settings.base_url}{quote(path)}?{query}"


def log_path(job: str, log: str) -> str:
    """The path of a log file on this service."""
    return f"{ARTIFACTS}/{job}/{log}"


def error_view(job: Job) -> dict[str, Any] | None:
    """Why a job failed, in the shape that the SDK shows."""
    if not job.error:
        return None
    said = {key: job.error.get(key) for key in ("code", "message")}
    return {"error": {**said, "messageParameters": {}, "details": []}}


def output_id(job: str, output: str) -> str:
    """The id under which the run history names an output."""
    return f"azureml://jobs/{job}/outputs/{output}"


def _outputs(job: Job, user_agent: str) -> dict[str, Any]:
    """A run's outputs. A model is called a folder: else the SDK leaves it out when it downloads
    all outputs (it asks for models in a way that fails), and its files are a folder's.
    """
    found = SDK_VERSION.search(user_agent)
    old = found is not None and (int(found[1]), int(found[2])) <= LAST_WITH_CAPITALS
    types = CAPITALS if old else {}
    return {
        name: {
            "assetId": output_id(job.name, name),
            "type": types.get(kind, kind),
        }
        for name, written in job.outputs.items()
        for kind in (_data_type(str(written.get("type"))),)
    }


def _data_type(kind: str) -> str:
    return kind if kind in CAPITALS else "uri_folder"


def _properties(job: Job) -> dict[str, str]:
    """A job's properties, and for a step that was reused those by which Azure says so."""
    source = str(job.reuse.get("from") or "")
    reused = {"azureml.isreused": "true", "azureml.reusedrunid": source} if source else {}
    why = {"finery.reuse": str(job.reuse["why"])} if job.reuse.get("why") else {}
    return {**job.properties, **reused, **why}


def _run_services(workspace: Workspace, target: Target, job: Job) -> dict[str, Any]:
    """Services in the run history's own spelling."""
    return {
        name: {"type": said["type"], "endpoint": said["endpoint"], "properties": {}}
        for name, said in services(workspace, target, job).items()
    }


def _time(when: datetime | None) -> str | None:
    return moment(when) if when else None

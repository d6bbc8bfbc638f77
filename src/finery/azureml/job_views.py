"""A job as the clients see it: the body they sent, with what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from finery.azureml.scope import Target
from finery.azureml.wire import moment
from finery.jobs.job import Job
from finery.workspace import identity
from finery.workspace.place import Workspace

JOB_TYPE = "Microsoft.MachineLearningServices/workspaces/jobs"
DATASTORE = "workspaceblobstore"


def job_view(workspace: Workspace, target: Target, job: Job) -> dict[str, Any]:
    """The ARM resource of a job. A step has no properties there: that is how clients know that
    they find it in the run history.
    """
    view = {
        "id": f"{target.arm}/jobs/{job.name}",
        "name": job.name,
        "type": JOB_TYPE,
        "systemData": {
            "createdAt": moment(job.created_at),
            "createdBy": "owner",
            "createdByType": "User",
        },
    }
    if job.parent:
        return {**view, "properties": None}
    now = {
        "status": job.status,
        "displayName": job.display_name,
        "description": job.description or None,
        "experimentName": job.experiment,
        "tags": dict(job.tags),
        "properties": dict(job.properties),
        "isArchived": job.archived,
        "services": services(workspace, target, job),
        "outputs": _outputs(target, job),
    }
    return {**view, "properties": {"inputs": {}, **job.wire, **now}}


def services(workspace: Workspace, target: Target, job: Job) -> dict[str, Any]:
    """Where to look at a job. The first opens in a browser that never signed in, for half a day."""
    host = workspace.settings.base_url.removeprefix("https://")
    page = identity.login_link(workspace, f"/studio/jobs/{quote(job.name)}")
    return {
        "Studio": _service("Studio", page),
        "Tracking": _service("Tracking", f"azureml://{host}/mlflow/v1.0{target.arm}"),
    }


def _service(kind: str, endpoint: str) -> dict[str, Any]:
    return {
        "endpoint": endpoint,
        "jobServiceType": kind,
        "type": kind,
        "port": None,
        "status": None,
        "errorMessage": None,
        "properties": {},
    }


def _outputs(target: Target, job: Job) -> dict[str, Any]:
    """The outputs as asked for, each with the place that it has."""
    asked: Mapping[str, Any] = job.wire.get("outputs") or {}
    return {
        name: {
            "jobOutputType": "uri_folder",
            **{key: value for key, value in (said or {}).items() if value is not None},
            "uri": output_uri(target, job, name),
        }
        for name, said in asked.items()
    }


def output_uri(target: Target, job: Job, name: str) -> str:
    """Where an output of a job lies, in the long form that all clients take."""
    said = str((job.outputs.get(name) or {}).get("uri") or "")
    prefix = "azureml://datastores/"
    if not said.startswith(prefix):
        said = f"{prefix}{DATASTORE}/paths/azureml/{job.name}/{name}/"
    scope = f"subscriptions/{target.subscription}/resourcegroups/{target.resource_group}"
    return f"azureml://{scope}/workspaces/{target.workspace}/{said.removeprefix('azureml://')}"

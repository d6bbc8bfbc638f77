"""Jobs as the SDK submits, reads, lists and cancels them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from finery.azureml.job_bodies import job_spec, properties_of, texts
from finery.azureml.job_changes import same_request
from finery.azureml.job_views import job_view
from finery.azureml.scope import WORKSPACE, TargetDep, WorkspaceDep, paged
from finery.azureml.wire import list_view, or_fault, said_text, whole_number
from finery.errors import Fault, InputError
from finery.jobs import service
from finery.jobs.job import Job
from finery.workspace.errors import ConflictError, NotFoundError
from finery.workspace.place import Workspace

router = APIRouter()

JOBS = WORKSPACE + "/jobs"
PAGE, LARGEST_PAGE = 50, 1000
SOON = {"retry-after-ms": "200"}


@router.put(JOBS + "/{job}")
def submit(
    job: str, body: dict[str, Any], target: TargetDep, workspace: WorkspaceDep
) -> JSONResponse:
    """Submit a job, or change what may change of one that is there."""
    there = _find(workspace, job)
    if there is not None:
        changed = _change(workspace, there, properties_of(body))
        return JSONResponse(job_view(workspace, target, changed))
    made = service.submit(workspace, job_spec(workspace, job, body))
    return JSONResponse(job_view(workspace, target, made), status_code=201)


@router.get(JOBS + "/{job}")
def show(job: str, target: TargetDep, workspace: WorkspaceDep) -> dict[str, Any]:
    """One job."""
    return job_view(workspace, target, service.get(workspace, job))


@router.get(JOBS)
def listing(request: Request, target: TargetDep, workspace: WorkspaceDep) -> dict[str, Any]:
    """The jobs that somebody submitted, newest first, a page at a time."""
    query = {key.lower(): value for key, value in request.query_params.items()}
    jobs, after = service.find(
        workspace,
        experiment=query.get("experimentname"),
        archived=list_view(query.get("listviewtype", "ActiveOnly")),
        limit=page_size(query.get("$top")),
        after=page_start(query.get("$skip")),
    )
    kept = [job for job in jobs if _wanted(job, query)]
    return paged([job_view(workspace, target, job) for job in kept], _next(request, after))


@router.delete(JOBS + "/{job}")
def delete(job: str, workspace: WorkspaceDep) -> Response:
    """Forget a job that has ended; its outputs stay."""
    service.delete(workspace, job)
    return Response(status_code=200)


@router.post(JOBS + "/{job}/cancel")
def cancel(job: str, request: Request, target: TargetDep, workspace: WorkspaceDep) -> Response:
    """Ask a job to end; the address in Location says when it has."""
    asked = service.get(workspace, job)
    if asked.is_terminal:
        return Response(status_code=200)
    service.cancel(workspace, job)
    place = f"{workspace.settings.base_url}{target.arm}/jobs/{job}/cancel"
    return Response(status_code=202, headers={"Location": place, **SOON})


@router.get(JOBS + "/{job}/cancel")
def canceled(job: str, target: TargetDep, workspace: WorkspaceDep) -> Response:
    """Whether a job that was asked to end has ended: 202 until then."""
    if service.get(workspace, job).is_terminal:
        return Response(status_code=200)
    place = f"{workspace.settings.base_url}{target.arm}/jobs/{job}/cancel"
    return Response(status_code=202, headers={"Location": place, **SOON})


def page_size(given: str | None) -> int:
    """How many things a page holds; raises InputError for what is no number."""
    if not given:
        return PAGE
    return min(whole_number(given, "$top", 1), LARGEST_PAGE)


def page_start(given: str | None) -> int | None:
    """After which job a page begins; raises InputError for what no page has said."""
    return whole_number(given, "$skip") if given else None


def _find(workspace: Workspace, name: str) -> Job | None:
    try:
        return service.get(workspace, name)
    except NotFoundError:
        return None


def _change(workspace: Workspace, job: Job, properties: Mapping[str, Any]) -> Job:
    """Take over tags, names and the archive flag; all else has to be as it was submitted."""
    if job.parent or not same_request(job.wire, properties):
        raise ConflictError(
            f"A job called {job.name} was submitted before and asks for something else. "
            "Give this one another name; of the old one, description, displayName, tags and "
            "isArchived can be changed."
        )
    faults: list[Fault] = []
    tags = texts(properties.get("tags"), "tags", faults)
    title = or_fault(faults, lambda: said_text(properties, "displayName"), None)
    description = or_fault(faults, lambda: said_text(properties, "description"), None)
    archived = properties.get("isArchived")
    if archived is not None and not isinstance(archived, bool):
        faults.append(Fault("isArchived", repr(archived), "true or false"))
    if faults:
        raise InputError(faults, subject=f"job {job.name}")
    return service.update(
        workspace,
        job.name,
        tags=tags if "tags" in properties else None,
        display_name=title,
        description=description,
        archived=archived,
    )


def _wanted(job: Job, query: Mapping[str, str]) -> bool:
    """Whether a job is of the type, and has the tag, that a list is limited to."""
    kind = query.get("jobtype", "")
    if kind and job.type.lower() != kind.lower():
        return False
    tag, equals, value = query.get("tag", "").partition("=")
    return not tag or (tag in job.tags and (not equals or job.tags[tag] == value))


def _next(request: Request, after: int | None) -> str | None:
    """The address of the page after this one."""
    if after is None:
        return None
    workspace: Workspace = request.app.state.workspace
    kept = [(k, v) for k, v in request.query_params.multi_items() if k.lower() != "$skip"]
    query = urlencode([*kept, ("$skip", str(after))], safe="$")
    return f"{workspace.settings.base_url}{request.url.path}?{query}"

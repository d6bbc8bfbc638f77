"""Run history: details, logs, children, outputs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from finery.azureml.first_look import Looks
from finery.azureml.job_bodies import texts
from finery.azureml.job_views import output_uri
from finery.azureml.jobs import page_size, page_start
from finery.azureml.run_views import (
    ARTIFACTS,
    details_view,
    log_path,
    output_id,
    run_view,
)
from finery.azureml.scope import WORKSPACE, Target, TargetDep, WorkspaceDep
from finery.azureml.wire import or_fault, said_text
from finery.errors import Fault, InputError
from finery.jobs import service
from finery.jobs.job import FINALIZING, Job
from finery.workspace import identity, references
from finery.workspace.errors import NotFoundError
from finery.workspace.place import Workspace

router = APIRouter()

HISTORY = "/history/v1.0" + WORKSPACE
# The same run, asked for by itself or as one of an experiment, whose name or id changes nothing.
RUNS = (
    HISTORY + "/runs/{run}",
    HISTORY + "/experiments/{experiment}/runs/{run}",
    HISTORY + "/experimentids/{experiment}/runs/{run}",
)
CHUNK = 1 << 20
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
LOOKS = Looks()


def _each(method: str, tail: str = "") -> Any:
    """Register a handler at every address of a run."""

    def register(handler: Any) -> Any:
        for path in RUNS:
            router.add_api_route(path + tail, handler, methods=[method])
        return handler

    return register


@_each("GET", "/details")
def details(
    run: str, request: Request, target: TargetDep, workspace: WorkspaceDep
) -> dict[str, Any]:
    """The state of a run and its log files."""
    job = service.get(workspace, run)
    view = details_view(workspace, target, job, _agent(request))
    if LOOKS.is_first(f"{workspace.folder}/{run}", ended=job.is_terminal):
        view |= {"status": FINALIZING, "error": None}
    return view


@_each("GET", "/children")
def children(
    run: str, request: Request, target: TargetDep, workspace: WorkspaceDep
) -> dict[str, Any]:
    """The steps of a run, a page at a time."""
    service.get(workspace, run)
    query = request.query_params
    steps, after = service.find(
        workspace,
        parent=run,
        archived="all",
        limit=page_size(query.get("$top")),
        after=page_start(query.get("$continuationtoken")),
    )
    page: dict[str, Any] = {
        "value": [run_view(workspace, target, step, _agent(request)) for step in steps]
    }
    if after is not None:
        kept = [(k, v) for k, v in query.multi_items() if k != "$continuationtoken"]
        more = urlencode([*kept, ("$continuationtoken", str(after))], safe="$")
        page["continuationToken"] = str(after)
        page["nextLink"] = f"{workspace.settings.base_url}{request.url.path}?{more}"
    return page


@_each("GET", "/serviceinstances/{node}")
def instances(run: str, node: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Interactive services of a run: there are none."""
    service.get(workspace, run)
    return {"instances": {}}


@_each("GET")
def show(run: str, request: Request, target: TargetDep, workspace: WorkspaceDep) -> dict[str, Any]:
    """One run."""
    return run_view(workspace, target, service.get(workspace, run), _agent(request))


@_each("PATCH")
def change(
    run: str,
    body: dict[str, Any],
    request: Request,
    target: TargetDep,
    workspace: WorkspaceDep,
) -> dict[str, Any]:
    """Archive or restore a run, rename it, add tags or properties."""
    faults: list[Fault] = []
    said: dict[str, Any] = {
        "tags": texts(body.get("tags"), "tags", faults),
        "properties": texts(body.get("properties"), "properties", faults),
        "display_name": or_fault(faults, lambda: said_text(body, "displayName"), None),
        "description": or_fault(faults, lambda: said_text(body, "description"), None),
    }
    hidden = body.get("hidden")
    if hidden is not None and not isinstance(hidden, bool):
        faults.append(Fault("hidden", repr(hidden), "true or false"))
    if faults:
        raise InputError(faults, subject=f"run {run}")
    job = service.update(workspace, run, **said, archived=hidden, add=True)
    return run_view(workspace, target, job, _agent(request))


@router.post(HISTORY + "/rundata")
def data(
    body: dict[str, Any], request: Request, target: TargetDep, workspace: WorkspaceDep
) -> dict[str, Any]:
    """A run with what it was made from."""
    job = service.get(workspace, str(body.get("runId") or ""))
    return {"runMetadata": run_view(workspace, target, job, _agent(request))}


@router.post("/data/v1.0" + WORKSPACE + "/dataversion/batchGetResolvedUris")
def data_addresses(
    body: dict[str, Any], target: TargetDep, workspace: WorkspaceDep
) -> dict[str, Any]:
    """Where outputs lie, by the ids that the run history gave them."""
    return _addresses(workspace, target, body, "uri")


@router.post("/modelregistry/v1.0" + WORKSPACE + "/models/batchGetResolvedUris")
def model_addresses(
    body: dict[str, Any], target: TargetDep, workspace: WorkspaceDep
) -> dict[str, Any]:
    """The same for outputs that are models."""
    return _addresses(workspace, target, body, "path")


@router.get(ARTIFACTS + "/{run}/{log:path}")
def log_file(run: str, log: str, request: Request, workspace: WorkspaceDep) -> Response:
    """A log file, or the part of it that is asked for; the address carries its own permission.

    Azure's clients fetch a growing log again and again, whole, and print what is beyond the lines
    they have seen, so an unfinished last line waits until the run has ended.
    """
    identity.verify_query(workspace, log_path(run, log), request.query_params)
    job = service.get(workspace, run)
    found = {file.name: file.path for file in service.log_files(workspace, run)}.get(log)
    if found is None:
        raise NotFoundError(f"The run {run} has no log called {log}.")
    size = found.stat().st_size if job.is_terminal else complete_lines(found)
    headers = {"Cache-Control": "no-store", "Accept-Ranges": "bytes"}
    span = asked_part(request.headers.get("range", ""), size)
    if span is None:
        headers["Content-Length"] = str(size)
        return StreamingResponse(read(found, size), media_type="text/plain", headers=headers)
    start, end = span
    if start >= end:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    headers |= {
        "Content-Range": f"bytes {start}-{end - 1}/{size}",
        "Content-Length": str(end - start),
    }
    return StreamingResponse(
        read(found, end - start, start), 206, media_type="text/plain", headers=headers
    )


def asked_part(header: str, size: int) -> tuple[int, int] | None:
    """Where the part of a file that `Range` asks for begins, and where it ends; empty when the
    file has none of it. None asks for all, as do forms that need not be served (RFC 9110, 14.2).
    """
    found = _RANGE.fullmatch(header.strip())
    if found is None or header.strip() == "bytes=-":
        return None
    first, last = found.groups()
    if not first:  # so many bytes from the end
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size


def complete_lines(path: Path) -> int:
    """How many bytes of a file are whole lines."""
    end = path.stat().st_size
    with path.open("rb") as file:
        while end > 0:
            start = max(0, end - CHUNK)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def read(path: Path, size: int, start: int = 0) -> Iterator[bytes]:
    """The `size` bytes from `start` on of a file that may be growing."""
    with path.open("rb") as file:
        file.seek(start)
        while size > 0 and (piece := file.read(min(size, CHUNK))):
            size -= len(piece)
            yield piece


def _addresses(
    workspace: Workspace, target: Target, body: Mapping[str, Any], word: str
) -> dict[str, Any]:
    """Where each output of a request lies, under the word that its clients read."""
    return {
        "values": {
            asset: {word: output_uri(target, job, name), "type": job.outputs[name].get("type")}
            for asset, job, name in _outputs(workspace, body)
        }
    }


def _outputs(workspace: Workspace, body: Mapping[str, Any]) -> Iterator[tuple[str, Job, str]]:
    """The job and output that each id of a request names; raises NotFoundError."""
    values = body.get("values")
    if not isinstance(values, list):
        raise InputError([Fault("values", repr(values), "a list of ids of outputs")])
    for asset in values:
        found = references.parse(str(asset), "values")
        if not isinstance(found, references.JobOutput):
            raise InputError([Fault("values", repr(asset), output_id("JOB", "OUTPUT"))])
        job = service.get(workspace, found.job)
        if found.output not in job.outputs:
            raise NotFoundError(f"The job {job.name} has no output called {found.output}.")
        yield asset, job, found.output


def _agent(request: Request) -> str:
    return request.headers.get("user-agent", "")

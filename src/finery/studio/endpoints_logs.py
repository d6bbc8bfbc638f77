"""Logs of deployments: one a replica, followed as they grow."""

from __future__ import annotations

import functools
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from finery.endpoints import replicas, service
from finery.studio import layout, logs
from finery.studio.endpoints_changes import page_of
from finery.studio.formats import segment
from finery.studio.layout import workspace_of
from finery.workspace.errors import NotFoundError
from finery.workspace.place import Workspace

NAMED = 8  # characters of a replica's id that tell it from the others


def files(workspace: Workspace, endpoint: str, deployment: str) -> dict[str, Path]:
    """The logs of a deployment's replicas by their ids, the newest first.

    Raises NotFoundError without the deployment.
    """
    service.deployment(workspace, endpoint, deployment)
    host = service.host_of(workspace, endpoint, deployment) or deployment
    folder = replicas.deployment_folder(workspace, endpoint, host)
    found = sorted(folder.glob(f"*/{replicas.LOG}"), key=lambda path: -_begun(path))
    return {path.parent.name: path for path in found}


def _begun(path: Path) -> float:
    return path.parent.stat().st_ctime


def page(
    request: Request, name: str, deployment: str, file: str = "", before: str = ""
) -> Response:
    """The end of a replica's log, or the piece before a place in it."""
    workspace = workspace_of(request)
    found = files(workspace, name, deployment)
    if file:
        _path(workspace, name, deployment, file)
    chosen = file or next(iter(found), "")
    values = {"text": "", "start": 0, "end": 0, "size": 0}
    if chosen:
        path = found[chosen]
        values = logs.piece(path, logs.place_of(before, "before", path.stat().st_size))
    return layout.page(
        request,
        "endpoint_log.html",
        title=f"Log of {deployment}",
        active="endpoints",
        endpoint_name=name,
        deployment=deployment,
        host=service.host_of(workspace, name, deployment),
        files=list(found),
        chosen=chosen,
        named=NAMED,
        is_end=not before,
        link=page_of(name),
        log_link=f"{page_of(name)}/deployments/{segment(deployment)}/log",
        **values,
    )


def follow(request: Request, name: str, deployment: str, file: str, at: str = "") -> Response:
    """A log as it grows, from a place in it, until its folder is gone."""
    workspace = workspace_of(request)
    _path(workspace, name, deployment, file)
    news = functools.partial(_news, workspace, name, deployment, file)
    return logs.followed(request, news, at)


def _news(
    workspace: Workspace, name: str, deployment: str, file: str, place: int
) -> tuple[str, int, bool]:
    try:
        path = _path(workspace, name, deployment, file)
        return logs.after(path, place, _has_ended(workspace, name, file))
    except (NotFoundError, FileNotFoundError):  # deleted meanwhile
        return "", place, True


def _has_ended(workspace: Workspace, name: str, file: str) -> bool:
    return all(replica.id != file for replica in service.replicas_of(workspace, name))


def download(request: Request, name: str, deployment: str, file: str) -> Response:
    """A whole log as a file."""
    path = _path(workspace_of(request), name, deployment, file)
    filename = f"{name}-{deployment}-{file[:NAMED]}.txt"
    return FileResponse(path, media_type="text/plain; charset=utf-8", filename=filename)


def _path(workspace: Workspace, name: str, deployment: str, file: str) -> Path:
    found = files(workspace, name, deployment)
    if file not in found:
        raise NotFoundError(f"{deployment} has no replica {file[:100]} with a log.")
    return found[file]

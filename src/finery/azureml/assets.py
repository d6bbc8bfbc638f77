"""Models, data, components, environments and codes: names and versions, workspace and registry.

One set of routes serves every kind: Azure's paths and bodies differ in one word and a few
properties (azureml/asset_bodies.py).
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.convertors import Convertor, register_url_convertor

from finery.azureml import registries
from finery.azureml.asset_bodies import name_body, read_version, version_body
from finery.azureml.errors import error_response
from finery.azureml.registered import take_over
from finery.azureml.registration import completed
from finery.azureml.scope import REGISTRY, WORKSPACE, Target, TargetDep, WorkspaceDep, paged
from finery.azureml.wire import list_view, mapping, text, texts, whole_number
from finery.errors import Fault, InputError
from finery.workspace import assets
from finery.workspace.asset import PathChangedError
from finery.workspace.place import Workspace
from finery.workspace.references import KINDS

# The sentence by which the SDK knows that a version has other files (its ASSET_PATH_ERROR).
PATH_CHANGED = "Asset paths cannot be updated."
_PAGE = 100


class AssetKinds(Convertor[str]):
    """The word of a path that names a kind of asset."""

    regex = "|".join(KINDS)

    def convert(self, value: str) -> str:
        """The kind that the word means."""
        return KINDS[value]

    def to_string(self, value: str) -> str:
        """The word for a kind."""
        return next(word for word, kind in KINDS.items() if kind == value)


register_url_convertor("assets", AssetKinds())
router = APIRouter()
router.include_router(registries.router)


def _bases(tail: str) -> tuple[str, str]:
    return WORKSPACE + "/{kind:assets}" + tail, REGISTRY + "/{kind:assets}" + tail


_NAMES, _REGISTRY_NAMES = _bases("")
_NAME, _REGISTRY_NAME = _bases("/{name}")
_VERSIONS, _REGISTRY_VERSIONS = _bases("/{name}/versions")
_VERSION, _REGISTRY_VERSION = _bases("/{name}/versions/{version}")

View = Annotated[str, Query(alias="listViewType")]
Top = Annotated[int | None, Query(alias="$top", ge=1)]
Skip = Annotated[str, Query(alias="$skip")]  # the token of the page before
Sent = Annotated[dict[str, Any], Body()]


@router.get(_NAMES)
@router.get(_REGISTRY_NAMES)
def list_names(
    kind: str,
    request: Request,
    target: TargetDep,
    workspace: WorkspaceDep,
    view: View = "ActiveOnly",
    top: Top = None,
    skip: Skip = "0",
) -> dict[str, Any]:
    """The names of a kind."""
    _look_around(workspace, kind, target)
    every = assets.names(workspace, kind, target.registry, archived=list_view(view))
    start, size = whole_number(skip, "$skip"), min(top or _PAGE, _PAGE)
    page = [name_body(target, name) for name in every[start : start + size]]
    # $top bounds the whole answer, as in Azure; without it the pages go on to the end.
    more = top is None and len(every) > start + size
    return paged(page, _next(request, start + size) if more else None)


@router.get(_NAME)
@router.get(_REGISTRY_NAME)
def show_name(kind: str, name: str, target: TargetDep, workspace: WorkspaceDep) -> dict[str, Any]:
    """What the versions of a name share."""
    _look_around(workspace, kind, target)
    return name_body(target, assets.get_name(workspace, kind, target.registry, name))


@router.put(_NAME)
@router.put(_REGISTRY_NAME)
def put_name(
    kind: str, name: str, body: Sent, target: TargetDep, workspace: WorkspaceDep
) -> dict[str, Any]:
    """Describe, archive or restore all versions of a name."""
    sent = mapping(body, "properties")
    changed = assets.put_name(
        workspace,
        kind,
        target.registry,
        name,
        description=text(sent, "description") if sent.get("description") is not None else None,
        tags=texts(sent, "tags") if sent.get("tags") is not None else None,
        properties=texts(sent, "properties") if sent.get("properties") is not None else None,
        archived=bool(sent["isArchived"]) if sent.get("isArchived") is not None else None,
    )
    return name_body(target, changed)


@router.delete(_NAME)
@router.delete(_REGISTRY_NAME)
def delete_name(kind: str, name: str, target: TargetDep, workspace: WorkspaceDep) -> Response:
    """Forget a name with all its versions."""
    gone = assets.delete(workspace, kind, target.registry, name)
    return Response(status_code=200 if gone else 204)


@router.get(_VERSIONS)
@router.get(_REGISTRY_VERSIONS)
def list_versions(
    kind: str,
    name: str,
    request: Request,
    target: TargetDep,
    workspace: WorkspaceDep,
    order: Annotated[str, Query(alias="$orderBy")] = "createdtime desc",
    view: View = "ActiveOnly",
    top: Top = None,
    skip: Skip = "0",
    content_hash: Annotated[str, Query(alias="hash")] = "",
    hash_version: Annotated[str, Query(alias="hashVersion")] = "",
    stage: str = "",
) -> dict[str, Any]:
    """The versions of a name; newest first unless asked otherwise.

    Asked by hash, the SDK wants to know whether it must upload: under whatever name the content
    is here already, it takes that version.
    """
    if content_hash:
        same = assets.with_content(workspace, kind, target.registry, content_hash)
        return paged(
            [
                version_body(workspace, target, asset)
                for asset in same
                if not hash_version or asset.properties.get("hash_version") == hash_version
            ]
        )
    _look_around(workspace, kind, target)
    start, size = whole_number(skip, "$skip"), min(top or _PAGE, _PAGE)
    found = assets.versions(
        workspace,
        kind,
        target.registry,
        name,
        archived=list_view(view),
        newest_first=_newest_first(order),
        limit=size + 1,
        offset=start,
    )
    page = found[:size]
    chosen = [asset for asset in page if not stage or asset.spec.get("stage") == stage]
    more = top is None and len(found) > size
    bodies = [version_body(workspace, target, asset) for asset in chosen]
    return paged(bodies, _next(request, start + size) if more else None)


@router.get(_VERSION)
@router.get(_REGISTRY_VERSION)
def show_version(
    kind: str, name: str, version: str, target: TargetDep, workspace: WorkspaceDep
) -> dict[str, Any]:
    """One version."""
    _look_around(workspace, kind, target)
    asset = assets.get(workspace, kind, target.registry, name, version)
    return version_body(workspace, target, asset)


@router.put(_VERSION)
@router.put(_REGISTRY_VERSION)
def put_version(
    kind: str,
    name: str,
    version: str,
    body: Sent,
    target: TargetDep,
    workspace: WorkspaceDep,
) -> Response:
    """Create a version, or change what may change of it; synchronous."""
    sent = read_version(target, kind, name, version, body)
    old = assets.find(workspace, kind, target.registry, name, version)
    try:
        asset = assets.put(workspace, sent if old else completed(workspace, sent))
    except PathChangedError:
        return error_response(400, "UserError", PATH_CHANGED)
    return JSONResponse(version_body(workspace, target, asset), 200 if old else 201)


@router.delete(_VERSION)
@router.delete(_REGISTRY_VERSION)
def delete_version(
    kind: str, name: str, version: str, target: TargetDep, workspace: WorkspaceDep
) -> Response:
    """Forget a version."""
    gone = assets.delete(workspace, kind, target.registry, name, version)
    return Response(status_code=200 if gone else 204)


def _look_around(workspace: Workspace, kind: str, target: Target) -> None:
    """Models may have been registered in MLflow since."""
    if kind == "model" and not target.registry:
        take_over(workspace)


def _newest_first(order: str) -> bool:
    words = order.lower().split()
    if words[:1] not in (["createdtime"], ["createdat"]) or words[1:] not in (
        [],
        ["asc"],
        ["desc"],
    ):
        raise InputError([Fault("$orderBy", repr(order), "createdtime desc or createdtime asc")])
    return words[1:] == ["desc"]


def _next(request: Request, start: int) -> str:
    query = [(key, value) for key, value in request.query_params.multi_items() if key != "$skip"]
    base = str(request.url.replace(query=""))
    return f"{base}?{urlencode([*query, ('$skip', str(start))])}"

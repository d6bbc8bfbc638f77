"""Online endpoints: their shapes, keys and tokens, and the operations that take a while."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from finery.azureml import canaries, deployments
from finery.azureml.scope import WORKSPACE, Target, TargetDep, WorkspaceDep, paged
from finery.azureml.wire import mapping, moment, text
from finery.endpoints import keys, operations, service
from finery.endpoints.gateway import control
from finery.endpoints.values import AuthMode, Endpoint
from finery.errors import Fault, InputError
from finery.workspace.place import Workspace
from finery.workspace.store import now

router = APIRouter()
router.include_router(deployments.router)
router.include_router(canaries.router)

ENDPOINTS = WORKSPACE + "/onlineEndpoints"
ENDPOINT = ENDPOINTS + "/{endpoint}"
MODES: dict[str, AuthMode] = {"Key": "key", "AMLToken": "aml_token", "AADToken": "aad_token"}


@router.get(ENDPOINTS)
def listed(target: TargetDep, workspace: WorkspaceDep) -> dict[str, Any]:
    """Every endpoint, the newest first."""
    return paged([_body(target, workspace, found) for found in service.find(workspace)])


@router.get(ENDPOINT)
def show(endpoint: str, target: TargetDep, workspace: WorkspaceDep) -> dict[str, Any]:
    """One endpoint."""
    return _body(target, workspace, service.get(workspace, endpoint))


@router.put(ENDPOINT)
def create_or_update(
    endpoint: str, body: dict[str, Any], target: TargetDep, workspace: WorkspaceDep
) -> dict[str, Any]:
    """Create an endpoint or change its traffic; done when this answers."""
    return _body(target, workspace, service.put(workspace, _wanted(endpoint, body)))


@router.patch(ENDPOINT)
def update(
    endpoint: str, body: dict[str, Any], target: TargetDep, workspace: WorkspaceDep
) -> dict[str, Any]:
    """Change what is sent and leave the rest."""
    with deployments.MERGING:
        present = _body(target, workspace, service.get(workspace, endpoint))
        properties = {**present["properties"], **mapping(body, "properties")}
        merged = {**present, **body, "properties": properties}
        return _body(target, workspace, service.put(workspace, _wanted(endpoint, merged)))


@router.delete(ENDPOINT)
def delete(endpoint: str, request: Request, target: TargetDep, workspace: WorkspaceDep) -> Response:
    """Let it go with all its deployments."""
    operation = service.delete(workspace, endpoint)
    return deployments.accepted(request, target, operation)


@router.post(ENDPOINT + "/listKeys")
def list_keys(endpoint: str, workspace: WorkspaceDep) -> dict[str, str]:
    """Both keys."""
    found = service.get(workspace, endpoint)
    keys.refuse_unless(found, "key")
    return {"primaryKey": found.primary_key, "secondaryKey": found.secondary_key}


@router.post(ENDPOINT + "/regenerateKeys")
def regenerate_keys(endpoint: str, body: dict[str, Any], workspace: WorkspaceDep) -> Response:
    """Replace one key; done when this answers."""
    which = text(body, "keyType").lower()
    if which not in ("primary", "secondary"):
        raise InputError([Fault("keyType", repr(body.get("keyType")), "Primary or Secondary")])
    value = text(body, "keyValue")
    keys.regenerate(workspace, endpoint, "primary" if which == "primary" else "secondary", value)
    return Response(status_code=200)


@router.post(ENDPOINT + "/token")
def token(endpoint: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """A token that opens the endpoint for a while."""
    value = keys.token(workspace, service.get(workspace, endpoint))
    end = now() + timedelta(seconds=keys.TOKEN_SECONDS)
    return {
        "accessToken": value,
        "tokenType": "Bearer",
        "expiryTimeUtc": _seconds(end),
        "refreshAfterTimeUtc": _seconds(end - timedelta(seconds=keys.TOKEN_SECONDS // 4)),
    }


@router.get(deployments.OPERATION)
def operation(operation: str, workspace: WorkspaceDep) -> Response:
    """Where something that takes a while stands."""
    found = operations.get(workspace, operation)
    body = {
        "id": found.id,
        "name": found.id,
        "status": found.status,
        "startTime": moment(found.created_at),
        **({"endTime": moment(found.ended_at)} if found.ended_at else {}),
        **({"error": dict(found.error)} if found.error else {}),
    }
    return JSONResponse(body, headers=deployments.SOON)


def _seconds(when: datetime) -> int:
    return int(when.replace(tzinfo=UTC).timestamp())


def _wanted(name: str, body: Mapping[str, Any]) -> service.WantedEndpoint:
    properties = mapping(body, "properties")
    mode = text(properties, "authMode") or "Key"
    by_word: dict[str, AuthMode] = {word.lower(): known for word, known in MODES.items()}
    if mode.lower() not in by_word:
        raise InputError([Fault("properties.authMode", repr(mode), ", ".join(MODES))])
    own = dict(mapping(properties, "properties"))  # the SDK reads no null there
    given = mapping(properties, "keys")
    both = (text(given, "primaryKey"), text(given, "secondaryKey"))
    if given and not all(len(key) >= 16 for key in both):
        expected = "primaryKey and secondaryKey, 16 characters each at least"
        raise InputError([Fault("properties.keys", "short or missing keys", expected)])
    secret_free = {key: value for key, value in properties.items() if key != "keys"}
    return service.WantedEndpoint(
        name=name,
        auth_mode=by_word[mode.lower()],
        traffic=dict(mapping(properties, "traffic")),
        mirror_traffic=dict(mapping(properties, "mirrorTraffic")),
        wire={**body, "properties": {**secret_free, "properties": own}},
        keys=both if given else None,
    )


def _body(target: Target, workspace: Workspace, found: Endpoint) -> dict[str, Any]:
    wire = dict(found.wire)
    given = mapping(wire, "properties")
    at = control.addresses(workspace)
    https, http = (at.https_url, at.http_url) if at else (workspace.settings.base_url, "")
    place = f"{https}/endpoints/{found.name}"
    plain = f"{http or workspace.settings.http_url}/endpoints/{found.name}"
    mode = next(word for word, known in MODES.items() if known == found.auth_mode)
    return {
        **wire,
        "id": f"{target.arm}/onlineEndpoints/{found.name}",
        "name": found.name,
        "type": "Microsoft.MachineLearningServices/workspaces/onlineEndpoints",
        "location": wire.get("location") or workspace.settings.location,
        "tags": wire.get("tags") or {},
        "properties": {
            **given,
            "properties": given.get("properties") or {},  # which older ones lack
            "authMode": mode,
            "traffic": dict(found.traffic),
            "mirrorTraffic": dict(found.mirror_traffic),
            "scoringUri": f"{place}/score",
            "swaggerUri": f"{place}/swagger.json",
            "openaiBaseUrl": f"{plain}/v1",
            "provisioningState": found.state,
        },
        "systemData": {
            "createdAt": moment(found.created_at),
            "lastModifiedAt": moment(found.modified_at),
        },
    }

"""Deployments of online endpoints: their shapes, their logs, their size."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from finery.azureml.scope import WORKSPACE, Target, TargetDep, WorkspaceDep, paged
from finery.azureml.wire import mapping, moment, or_fault, text, texts
from finery.endpoints import replicas, service
from finery.endpoints.rules import MOST_INSTANCES
from finery.endpoints.values import Deployment, Probe
from finery.errors import Fault, InputError
from finery.workspace.errors import NotImplementedHereError
from finery.workspace.place import Workspace
from finery.workspace.references import resolve_input

router = APIRouter()

DEPLOYMENTS = WORKSPACE + "/onlineEndpoints/{endpoint}/deployments"
DEPLOYMENT = DEPLOYMENTS + "/{name}"
OPERATION = WORKSPACE + "/endpointOperations/{operation}"
SOON = {"retry-after-ms": "200"}
DEFAULT_TIMEOUT = 180.0  # Azure's is 5 s, and its longest 180 s: models on a CPU need the latter
# What a change leaves is read before what it sends is written: two at once would lose one.
MERGING = threading.Lock()
MOST_LINES = 20_000  # of a log in one answer, which is made in memory
_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")


@router.get(DEPLOYMENTS)
def listed(endpoint: str, target: TargetDep, workspace: WorkspaceDep) -> dict[str, Any]:
    """The deployments of an endpoint."""
    found = service.deployments_of(workspace, endpoint)
    return paged([_body(target, workspace, one) for one in found])


@router.get(DEPLOYMENT)
def show(endpoint: str, name: str, target: TargetDep, workspace: WorkspaceDep) -> dict[str, Any]:
    """One deployment."""
    return _body(target, workspace, service.deployment(workspace, endpoint, name))


@router.put(DEPLOYMENT)
def create_or_update(
    endpoint: str,
    name: str,
    body: dict[str, Any],
    request: Request,
    target: TargetDep,
    workspace: WorkspaceDep,
) -> Response:
    """Have a model served; the operation ends when it answers."""
    service.get(workspace, endpoint)
    return _put(endpoint, name, body, request, target, workspace)


@router.patch(DEPLOYMENT)
def update(
    endpoint: str,
    name: str,
    body: dict[str, Any],
    request: Request,
    target: TargetDep,
    workspace: WorkspaceDep,
) -> Response:
    """Change what is sent (mostly the number of instances) and leave the rest."""
    with MERGING:
        present = service.deployment(workspace, endpoint, name).wire
        merged = {**present, **body}
        for key in ("properties", "sku"):
            merged[key] = {**mapping(present, key), **mapping(body, key)}
        return _put(endpoint, name, merged, request, target, workspace)


@router.delete(DEPLOYMENT)
def delete(
    endpoint: str, name: str, request: Request, target: TargetDep, workspace: WorkspaceDep
) -> Response:
    """Let a deployment go."""
    return accepted(request, target, service.delete_deployment(workspace, endpoint, name))


@router.post(DEPLOYMENT + "/getLogs")
def logs(endpoint: str, name: str, body: dict[str, Any], workspace: WorkspaceDep) -> dict[str, str]:
    """The last lines of the newest replica's log."""
    service.deployment(workspace, endpoint, name)
    lines = body.get("tail")
    lines = 1000 if lines is None else lines
    if not isinstance(lines, int) or isinstance(lines, bool) or not 0 <= lines <= MOST_LINES:
        raise InputError([Fault("tail", repr(lines), f"a number of lines from 0 to {MOST_LINES}")])
    log = replicas.newest_log(workspace, endpoint, name)
    return {"content": replicas.tail(log, lines) if log else ""}


@router.get(DEPLOYMENT + "/skus")
def sizes(endpoint: str, name: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """How many instances a deployment may have."""
    service.deployment(workspace, endpoint, name)
    capacity = {"minimum": 1, "maximum": MOST_INSTANCES, "default": 1, "scaleType": "Manual"}
    kind = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments"
    return paged([{"resourceType": kind, "sku": {"name": "Default"}, "capacity": capacity}])


def accepted(request: Request, target: Target, operation: str | None) -> Response:
    """202 with the place to ask about the operation; 204 when there was nothing to do."""
    if operation is None:
        return Response(status_code=204)
    request.app.state.endpoints.supervisor.wake()
    return Response(status_code=202, headers=_operation_headers(request, target, operation))


def _operation_headers(request: Request, target: Target, operation: str) -> dict[str, str]:
    workspace: Workspace = request.app.state.workspace
    url = f"{workspace.settings.base_url}{target.arm}/endpointOperations/{operation}"
    return {"Azure-AsyncOperation": url, **SOON}


def _put(
    endpoint: str,
    name: str,
    body: Mapping[str, Any],
    request: Request,
    target: Target,
    workspace: Workspace,
) -> Response:
    found, operation = service.put_deployment(workspace, _wanted(workspace, endpoint, name, body))
    request.app.state.endpoints.supervisor.wake()
    status = 201 if found.state == "Creating" else 200
    headers = _operation_headers(request, target, operation)
    return JSONResponse(_body(target, workspace, found), status, headers)


def _wanted(
    workspace: Workspace, endpoint: str, name: str, body: Mapping[str, Any]
) -> service.WantedDeployment:
    properties = mapping(body, "properties")
    _refuse_what_is_not_here(properties)
    settings = mapping(properties, "requestSettings")
    probe = mapping(properties, "livenessProbe")
    at_once = settings.get("maxConcurrentRequestsPerInstance")
    faults: list[Fault] = []
    wanted = service.WantedDeployment(
        endpoint=endpoint,
        name=name,
        model=or_fault(faults, lambda: _model(workspace, text(properties, "model")), ""),
        environment=or_fault(faults, lambda: texts(properties, "environmentVariables"), {}),
        instance_count=mapping(body, "sku").get("capacity", 1),
        at_once=1 if at_once is None else at_once,
        timeout_seconds=or_fault(
            faults,
            lambda: _duration(settings, "requestSettings.requestTimeout", DEFAULT_TIMEOUT),
            DEFAULT_TIMEOUT,
        ),
        probe=or_fault(faults, lambda: _probe(probe), Probe()),
        wire=dict(body),
    )
    if faults := [*faults, *service.deployment_faults(wanted)]:
        raise InputError(faults, f"deployment {name}")
    return wanted


def _refuse_what_is_not_here(properties: Mapping[str, Any]) -> None:
    kind = text(properties, "endpointComputeType") or "Managed"
    if kind.lower() != "managed":
        raise NotImplementedHereError(f"finery has no deployments on {kind}; use Managed.")
    for key, what in (
        ("codeConfiguration", "scoring code of your own"),
        ("environmentId", "an environment of your own"),
    ):
        if properties.get(key):
            raise NotImplementedHereError(
                f"finery does not have deployments with {what} ({key}). Deploy the model alone: "
                "chat models are served without."
            )


def _model(workspace: Workspace, reference: str) -> str:
    """What a replica loads: a folder of the workspace, or the source of a registry's model."""
    if not reference:
        raise InputError([Fault("properties.model", "no model", "the id of a registered model")])
    found = resolve_input(workspace, reference, "custom_model", where="properties.model")
    return str(found.path) if found.path else found.source


def _probe(settings: Mapping[str, Any]) -> Probe:
    failures = settings.get("failureThreshold")
    failures = Probe.failures if failures is None else failures
    if not isinstance(failures, int) or isinstance(failures, bool) or failures < 1:
        where = "livenessProbe.failureThreshold"
        raise InputError([Fault(where, repr(failures), "a whole number from 1")])
    return Probe(
        period=_duration(settings, "livenessProbe.period", Probe.period),
        timeout=_duration(settings, "livenessProbe.timeout", Probe.timeout),
        failures=failures,
    )


def _duration(settings: Mapping[str, Any], where: str, default: float) -> float:
    """Seconds of an ISO 8601 duration such as PT1M30S."""
    value = text(settings, where.rpartition(".")[2])
    if not value:
        return default
    match = _DURATION.fullmatch(value)
    if match is None or not any(match.groups()):
        raise InputError([Fault(where, repr(value), "a duration such as PT1M30S")])
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _body(target: Target, workspace: Workspace, found: Deployment) -> dict[str, Any]:
    wire = dict(found.wire)
    properties = mapping(wire, "properties")
    return {
        **wire,
        "id": f"{target.arm}/onlineEndpoints/{found.endpoint}/deployments/{found.name}",
        "name": found.name,
        "type": "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments",
        "location": wire.get("location") or workspace.settings.location,
        "tags": wire.get("tags") or {},
        "sku": {"name": "Default", **mapping(wire, "sku"), "capacity": found.instance_count},
        "properties": {
            **properties,
            "endpointComputeType": "Managed",
            "scaleSettings": properties.get("scaleSettings") or {"scaleType": "Default"},
            "provisioningState": found.state,
        },
        "systemData": {
            "createdAt": moment(found.created_at),
            "lastModifiedAt": moment(found.modified_at),
        },
    }

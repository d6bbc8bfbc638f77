"""Deployments of online endpoints: their shapes, their logs, their size."""

from __future__ import annotations

import json
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
ENGINE_PROPERTY = "finery.engine"
REPORTED = "finery.reported."  # before the properties that the replicas say, not the caller
_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")


@router.get(DEPLOYMENTS)
def listed(endpoint: str, target: TargetDep, workspace: WorkspaceDep) -> dict[str, Any]:
    """The deployments of an endpoint."""
    found = service.deployments_of(workspace, endpoint)
    reports = service.reports_of(workspace, endpoint)
    return paged([_body(target, workspace, one, reports) for one in found])


@router.get(DEPLOYMENT)
def show(endpoint: str, name: str, target: TargetDep, workspace: WorkspaceDep) -> dict[str, Any]:
    """One deployment."""
    found = service.deployment(workspace, endpoint, name)
    return _body(target, workspace, found, service.reports_of(workspace, endpoint))


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
    host = service.host_of(workspace, endpoint, name)  # whose process speaks for it, if another's
    log = replicas.newest_log(workspace, endpoint, host or name)
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
    reports = service.reports_of(workspace, endpoint)
    return JSONResponse(_body(target, workspace, found, reports), status, headers)


def _wanted(
    workspace: Workspace, endpoint: str, name: str, body: Mapping[str, Any]
) -> service.WantedDeployment:
    properties = mapping(body, "properties")
    _refuse_what_is_not_here(properties)
    settings = mapping(properties, "requestSettings")
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
        liveness_probe=_probe(properties, "livenessProbe", faults),
        readiness_probe=_probe(properties, "readinessProbe", faults),
        engine=or_fault(faults, lambda: _engine(body), "auto"),
        wire=_without_reports(body),
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


def _engine(body: Mapping[str, Any]) -> str:
    """The engine asked for: by variable, or by property or tag where a client sets no variables."""
    properties = mapping(body, "properties")
    for given, name in (
        (mapping(properties, "environmentVariables"), replicas.ENGINE),
        (mapping(properties, "properties"), ENGINE_PROPERTY),
        (mapping(body, "tags"), ENGINE_PROPERTY),
    ):
        if found := text(given, name):
            return found.lower()
    return "auto"


def _probe(properties: Mapping[str, Any], where: str, faults: list[Fault]) -> Probe:
    """A probe as it was sent; what is not said is Azure's default."""
    usual = Probe()
    settings = or_fault(faults, lambda: mapping(properties, where), {})

    def seconds(name: str, default: float) -> float:
        return or_fault(faults, lambda: _duration(settings, f"{where}.{name}", default), default)

    def count(name: str, default: int) -> int:
        given = settings.get(name)
        return default if given is None else given

    return Probe(
        initial_delay=seconds("initialDelay", usual.initial_delay),
        period=seconds("period", usual.period),
        timeout=seconds("timeout", usual.timeout),
        success_threshold=count("successThreshold", usual.success_threshold),
        failure_threshold=count("failureThreshold", usual.failure_threshold),
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


def _without_reports(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body without what an answer of ours added: the SDK sends back what it was shown."""
    properties = mapping(body, "properties")
    own = {
        name: value
        for name, value in mapping(properties, "properties").items()
        if not name.startswith(REPORTED)
    }
    return {**body, "properties": {**properties, "properties": own}}


def _body(
    target: Target,
    workspace: Workspace,
    found: Deployment,
    reports: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    wire = dict(found.wire)
    properties = mapping(wire, "properties")
    about = dict(mapping(properties, "properties"))
    for name, value in reports.get(found.name, {}).items():
        about[REPORTED + name] = value if isinstance(value, str) else json.dumps(value)
    if found.error:
        about[REPORTED + "error"] = found.error["message"]
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
            "properties": about,
            "engine": found.engine,
            "endpointComputeType": "Managed",
            "scaleSettings": properties.get("scaleSettings") or {"scaleType": "Default"},
            "provisioningState": found.state,
        },
        "systemData": {
            "createdAt": moment(found.created_at),
            "lastModifiedAt": moment(found.modified_at),
        },
    }

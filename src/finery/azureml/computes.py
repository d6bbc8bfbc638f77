"""Computes, machine sizes, quotas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Response

from finery.azureml.scope import PROVIDER, WORKSPACE, Target, TargetDep, WorkspaceDep, paged
from finery.errors import Fault, InputError
from finery.jobs.capacity import in_use, running_on
from finery.workspace import computes
from finery.workspace.computes import KIND, Compute
from finery.workspace.sizes import LOCAL, every_size, this_machine

router = APIRouter()

COMPUTES = WORKSPACE + "/computes"
COMPUTE = COMPUTES + "/{name}"
LOCATION = "/subscriptions/{sub}/providers/" + PROVIDER + "/locations/{location}"
LOW_PRIORITY = "LowPriority"


@router.get(COMPUTES)
def listed(target: TargetDep, workspace: WorkspaceDep) -> dict[str, Any]:
    """Every compute."""
    return paged([_body(target, compute) for compute in computes.find(workspace)])


@router.get(COMPUTE)
def show(name: str, target: TargetDep, workspace: WorkspaceDep) -> dict[str, Any]:
    """One compute."""
    return _body(target, computes.get(workspace, name))


@router.put(COMPUTE)
def create(
    name: str, body: dict[str, Any], target: TargetDep, workspace: WorkspaceDep
) -> dict[str, Any]:
    """Make or change one; done when this answers."""
    return _body(target, computes.create_or_update(workspace, _compute(name, body)))


@router.patch(COMPUTE)
def scale(
    name: str, body: dict[str, Any], target: TargetDep, workspace: WorkspaceDep
) -> dict[str, Any]:
    """Change the node counts of one."""
    wire = dict(computes.get(workspace, name).wire or {})
    properties = _mapping(wire, "properties")
    inner = _mapping(properties, "properties")
    # The change comes as properties.properties.scaleSettings or, from older clients, one level up.
    sent = _mapping(body, "properties")
    sent = _mapping(sent, "properties") or sent
    inner = {**inner, **sent}
    wire["properties"] = {**properties, "properties": inner}
    return _body(target, computes.create_or_update(workspace, _compute(name, wire)))


@router.delete(COMPUTE)
def delete(name: str, workspace: WorkspaceDep) -> Response:
    """Remove one."""
    computes.delete(workspace, name)
    return Response(status_code=200)


@router.post(COMPUTE + "/listNodes")
def nodes(name: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """The machines of a compute: this one."""
    computes.get(workspace, name)
    here = {"nodeId": "localhost", "privateIpAddress": "127.0.0.1"}
    running = running_on(workspace, name)
    if not running:
        return {"nodes": [{**here, "nodeState": "idle"}]}
    # One machine may run several steps of a compute; a node has one run.
    return {"nodes": [{**here, "nodeState": "running", "runId": job} for job in running]}


@router.post(COMPUTE + "/start")
@router.post(COMPUTE + "/stop")
@router.post(COMPUTE + "/restart")
def switch(name: str, workspace: WorkspaceDep) -> None:
    """Refuse: clusters are not switched."""
    computes.get(workspace, name)
    expected = "a compute that is switched by hand"
    remedy = "An AmlCompute is there for as long as its jobs run; nothing has to be done."
    raise InputError([Fault(f"compute {name}", f"an {KIND}", expected, remedy)])


@router.get(LOCATION + "/vmSizes")
def sizes() -> dict[str, Any]:
    """What machines may be asked for; `Standard_local` is what this one truly has."""
    return paged(
        [
            {
                "name": size.name,
                "family": size.family,
                "vCPUs": size.vcpus,
                "gpus": size.gpus,
                "memoryGB": size.memory_gb,
                "osVhdSizeMB": 1047552,
                "maxResourceVolumeMB": 0,
                "lowPriorityCapable": size.name != LOCAL,
                "premiumIO": True,
                "supportedComputeTypes": [KIND],
            }
            for size in every_size()
        ]
    )


@router.get(LOCATION + "/usages")
def usages(sub: str, location: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """How much of this machine there is, under Azure's words."""
    here = this_machine()
    with workspace.store.read() as connection:
        held = list(in_use(connection).values())
    counts = (
        ("computes", "Computes", len(computes.find(workspace)), 500),
        ("vCPUs", "vCPUs of this machine", sum(one.cores for one in held), here.vcpus),
        ("gpus", "GPUs of this machine", sum(len(one.gpus) for one in held), here.gpus),
    )
    base = f"/subscriptions/{sub}/providers/{PROVIDER}/locations/{location}/usages"
    return paged(
        [
            {
                "id": f"{base}/{name}",
                "type": f"{PROVIDER}/usages",
                "unit": "Count",
                "currentValue": current,
                "limit": limit,
                "name": {"value": name, "localizedValue": shown},
                "amlWorkspaceLocation": location,
            }
            for name, shown, current, limit in counts
        ]
    )


def _mapping(body: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = body.get(key) or {}
    if not isinstance(value, dict):
        raise InputError([Fault(key, type(value).__name__, "an object")])
    return value


def _compute(name: str, body: dict[str, Any]) -> Compute:
    properties = _mapping(body, "properties")
    computes.refuse_other_kinds(str(properties.get("computeType") or ""))
    inner = _mapping(properties, "properties")
    scale = _mapping(inner, "scaleSettings")
    faults, counts = [], {"minNodeCount": 0, "maxNodeCount": 1}
    for key, default in counts.items():
        value = scale.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            faults.append(Fault(f"scaleSettings.{key}", repr(value), "a whole number"))
        else:
            counts[key] = value
    if faults:
        raise InputError(faults)
    return Compute(
        name=name,
        size=str(inner.get("vmSize") or LOCAL),
        low_priority=str(inner.get("vmPriority") or "").lower() == LOW_PRIORITY.lower(),
        min_nodes=counts["minNodeCount"],
        max_nodes=counts["maxNodeCount"],
        description=str(properties.get("description") or ""),
        tags=_mapping(body, "tags"),
        wire=_without_password(body),
    )


def _without_password(body: dict[str, Any]) -> dict[str, Any]:
    """What may be stored and echoed: a login's password is neither used nor kept."""
    properties = _mapping(body, "properties")
    inner = _mapping(properties, "properties")
    login = _mapping(inner, "userAccountCredentials")
    if "adminUserPassword" not in login:
        return body
    kept = {key: value for key, value in login.items() if key != "adminUserPassword"}
    inner = {**inner, "userAccountCredentials": kept}
    return {**body, "properties": {**properties, "properties": inner}}


def _body(target: Target, compute: Compute) -> dict[str, Any]:
    wire = dict(compute.wire or {})
    properties = _mapping(wire, "properties")
    inner = _mapping(properties, "properties")
    scale = {
        "nodeIdleTimeBeforeScaleDown": "PT2M",
        **_mapping(inner, "scaleSettings"),
        "minNodeCount": compute.min_nodes,
        "maxNodeCount": compute.max_nodes,
    }
    return {
        "id": f"{target.arm}/computes/{compute.name}",
        "name": compute.name,
        "type": f"{PROVIDER}/workspaces/computes",
        "location": wire.get("location") or "local",
        "tags": dict(compute.tags or {}),
        **({"identity": wire["identity"]} if wire.get("identity") else {}),
        "properties": {
            **properties,
            "computeType": KIND,
            "computeLocation": wire.get("location") or "local",
            "description": compute.description,
            "provisioningState": "Succeeded",
            "createdOn": f"{compute.created_at:%Y-%m-%dT%H:%M:%S.%fZ}",
            "modifiedOn": f"{compute.modified_at:%Y-%m-%dT%H:%M:%S.%fZ}",
            "isAttachedCompute": False,
            "properties": {
                **inner,
                "vmSize": compute.size,
                "vmPriority": LOW_PRIORITY if compute.low_priority else "Dedicated",
                "scaleSettings": scale,
                "allocationState": "Steady",
                "currentNodeCount": compute.min_nodes,
                "targetNodeCount": compute.min_nodes,
                "errors": None,
            },
        },
    }

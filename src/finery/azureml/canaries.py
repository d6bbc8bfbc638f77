"""Canaries of an online endpoint. Azure has no such resource: the action is finery's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request

from finery.azureml.scope import WORKSPACE, WorkspaceDep, paged
from finery.azureml.wire import moment, text
from finery.endpoints import canary_steps
from finery.endpoints.canary_record import figures, odds, read_watched
from finery.endpoints.canary_steps import WantedCanary
from finery.endpoints.values import Canary
from finery.errors import Fault, InputError

router = APIRouter()

CANARY = WORKSPACE + "/onlineEndpoints/{endpoint}/canary"


@router.post(CANARY, status_code=201)
def begin(
    endpoint: str, body: dict[str, Any], request: Request, workspace: WorkspaceDep
) -> dict[str, Any]:
    """Begin to shift traffic to a deployment."""
    usual = WantedCanary(endpoint, "")
    wanted = WantedCanary(
        endpoint=endpoint,
        canary=text(body, "deployment"),
        steps=_several(body, "steps", usual.steps),
        guards=_several(body, "guards", usual.guards),
        min_requests=_or(body, "minRequests", usual.min_requests),
        step_minutes=_or(body, "stepMinutes", usual.step_minutes),
    )
    made = canary_steps.begin(workspace, wanted)
    request.app.state.endpoints.supervisor.wake()
    return _body(made)


@router.get(CANARY)
def listed(endpoint: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """The canaries of an endpoint, the newest first."""
    return paged([_body(one) for one in canary_steps.find(workspace, endpoint)])


@router.post(CANARY + "/abort")
def abort(endpoint: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """End the one that runs; all traffic goes back."""
    return _body(canary_steps.abort(workspace, endpoint))


def _or(body: Mapping[str, Any], key: str, default: Any) -> Any:
    return default if body.get(key) is None else body[key]


def _several(body: Mapping[str, Any], key: str, default: Any) -> Any:
    found = _or(body, key, default)
    if not isinstance(found, list | tuple):
        raise InputError([Fault(key, repr(found), "a list")])
    return found


def _body(one: Canary) -> dict[str, Any]:
    watched = read_watched(one.watch)
    return {
        "id": one.id,
        "endpoint": one.endpoint,
        "deployment": one.canary,
        "stable": one.stable,
        "state": one.state,
        "reason": one.reason,
        "steps": list(one.steps),
        "step": one.position,
        "share": one.steps[one.position],
        "guards": list(one.guards),
        "minRequests": one.min_requests,
        "stepMinutes": one.step_seconds / 60,
        "answered": one.watch["answered"],
        "figures": {
            one.canary: figures(watched.canary + watched.open_canary),
            one.stable: figures(watched.stable + watched.open_stable),
        },
        "evidence": {guard: odds(found) for guard, found in watched.evidence.items()},
        "history": list(one.history),
        "createdAt": moment(one.created_at),
        "endedAt": moment(one.ended_at) if one.ended_at else None,
    }

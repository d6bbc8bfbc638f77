"""Endpoints: the list, and the page of each with what of it changes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from finery.endpoints import service
from finery.endpoints.gateway import control
from finery.endpoints.rules import MOST_MIRRORED
from finery.endpoints.values import Endpoint
from finery.studio import endpoints_view as views
from finery.studio.formats import segment
from finery.studio.layout import fragment, page, render, workspace_of


def listing(request: Request) -> Response:
    """Every endpoint with its deployments."""
    workspace = workspace_of(request)
    found = service.find(workspace)
    shown = [(one, views.deployments(workspace, one)) for one in found]
    return page(request, "endpoints.html", title="Endpoints", active="endpoints", endpoints=shown)


def overview(request: Request, name: str) -> Response:
    """One endpoint: who answers there, who gets what, and how it goes."""
    workspace = workspace_of(request)
    endpoint = service.get(workspace, name)
    values = _state(request, endpoint)
    return page(
        request,
        "endpoint.html",
        title=name,
        active="endpoints",
        addresses=views.addresses(workspace, name),
        shown_keys={},
        most_mirrored=MOST_MIRRORED,
        **values,
        seen=_seen(values),
    )


def state(request: Request, name: str, seen: str = "") -> Response:
    """The part of the page that changes; nothing while it is as the browser has `seen` it."""
    values = _state(request, service.get(workspace_of(request), name))
    now = _seen(values)
    if seen == now:
        return Response(status_code=204)
    return fragment(request, "endpoint_state.html", **values, seen=now)


def traffic(request: Request, name: str) -> Response:
    """The form of the shares, made anew."""
    endpoint = service.get(workspace_of(request), name)
    values = {**_state(request, endpoint), "most_mirrored": MOST_MIRRORED}
    return fragment(request, "endpoint_traffic.html", **values)


def _seen(values: Mapping[str, Any]) -> str:
    """A short name of what the changing part shows. What ticks by itself is not in it."""
    text = render("endpoint_state.html", session=None, **{**values, "seen": "", "still": True})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _state(request: Request, endpoint: Endpoint) -> dict[str, Any]:
    workspace = workspace_of(request)
    shown = views.deployments(workspace, endpoint, control.stats(workspace))
    return {
        "endpoint": endpoint,
        "link": f"/studio/endpoints/{segment(endpoint.name)}",
        "deployments": shown,
        "canary": views.canary(workspace, endpoint.name),
        "mark": views.mark(endpoint, [one.deployment.name for one in shown]),
        "still": False,
    }

"""What a page may change of an endpoint: its traffic, canaries and keys, and its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from finery.endpoints import canary_steps, keys, service
from finery.endpoints.canary import GUARDS
from finery.endpoints.canary_steps import WantedCanary
from finery.endpoints.service import WantedEndpoint
from finery.endpoints.values import Endpoint
from finery.errors import Fault, InputError
from finery.studio import endpoints_view as views
from finery.studio.formats import segment
from finery.studio.layout import form_of, fragment, go, page, workspace_of
from finery.workspace.errors import ConflictError
from finery.workspace.place import Workspace

SHARE = "share."  # before the name of a deployment, in the form's fields


def set_traffic(request: Request, name: str) -> Response:
    """Share the traffic out as a form says, unless it was changed since the form was made."""
    workspace, form = workspace_of(request), form_of(request)
    endpoint = service.get(workspace, name)
    there = [one.name for one in service.deployments_of(workspace, name)]
    if form.get("seen", "") != views.mark(endpoint, there):
        raise ConflictError(
            f"The traffic of {name} was changed since this page was made. Load the page anew, "
            "look at it, and change it then."
        )
    faults: list[Fault] = []
    shares, mirror = _shares(form, faults), _mirror(form, faults)
    if faults:
        raise InputError(faults, f"traffic of {name}")
    if form.get("none"):
        shares = dict.fromkeys(shares, 0)
    elif sum(shares.values()) != 100:
        found = f"shares that sum to {sum(shares.values())}"
        raise InputError([Fault("traffic", found, "shares that sum to 100")])
    put_traffic(workspace, endpoint, shares, mirror)
    return go(request, page_of(name), said_of(shares, mirror))


def put_traffic(
    workspace: Workspace,
    endpoint: Endpoint,
    shares: Mapping[str, int],
    mirror: Mapping[str, int],
) -> Endpoint:
    """Change who gets what, and nothing else."""
    wanted = WantedEndpoint(
        name=endpoint.name,
        auth_mode=endpoint.auth_mode,
        traffic=shares,
        mirror_traffic=mirror,
        wire=endpoint.wire,
    )
    return service.put(workspace, wanted)


def said_of(shares: Mapping[str, int], mirror: Mapping[str, int]) -> str:
    """Who gets what, in a sentence."""
    given = [f"{name} {share} %" for name, share in shares.items() if share]
    copies = [f"; {name} gets copies of {share} %" for name, share in mirror.items() if share]
    return f"Traffic: {', '.join(given) or 'nobody gets any'}{''.join(copies)}."


def _shares(form: Mapping[str, str], faults: list[Fault]) -> dict[str, int]:
    asked = [key for key in form if key.startswith(SHARE)]
    return {
        key.removeprefix(SHARE): whole(form, key, "a whole number from 0 to 100", faults)
        for key in asked
    }


def _mirror(form: Mapping[str, str], faults: list[Fault]) -> dict[str, int]:
    to = form.get("mirror", "")
    share = whole(form, "mirrored", "a whole number from 0", faults) if to else 0
    return {to: share} if share else {}


def whole(form: Mapping[str, str], key: str, expected: str, faults: list[Fault]) -> int:
    """A field that holds a whole number; a fault for every other."""
    text = form.get(key, "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    faults.append(Fault(key, repr(text), expected))
    return 0


def begin_canary(request: Request, name: str) -> Response:
    """Begin to shift traffic to a deployment."""
    form = form_of(request)
    faults: list[Fault] = []
    wanted = WantedCanary(
        endpoint=name,
        canary=form.get("deployment", ""),
        steps=_steps(form.get("steps", ""), faults),
        guards=[guard for guard in GUARDS if form.get(guard)],
        min_requests=whole(form, "min_requests", "a whole number from 1", faults),
        step_minutes=_minutes(form.get("step_minutes", "0"), faults),
    )
    if faults:
        raise InputError(faults, "canary")
    made = canary_steps.begin(workspace_of(request), wanted)
    said = f"{made.canary} has {made.steps[0]} % of the traffic. More follows when it is no worse."
    return go(request, page_of(name), said)


def _steps(text: str, faults: list[Fault]) -> Sequence[int]:
    parts = [part.strip() for part in text.split(",")]
    if all(part.isascii() and part.isdigit() and len(part) < 4 for part in parts):
        return [int(part) for part in parts]
    faults.append(Fault("steps", repr(text), "whole numbers, such as 5, 25, 100"))
    return []


def _minutes(text: str, faults: list[Fault]) -> float:
    try:
        return float(text)
    except ValueError:
        faults.append(Fault("step_minutes", repr(text), "minutes from 0"))
        return 0.0


def abort_canary(request: Request, name: str) -> Response:
    """End the canary that runs; its traffic goes back."""
    ended = canary_steps.abort(workspace_of(request), name)
    return go(request, page_of(name), f"The canary was aborted: {ended.stable} has its traffic.")


def show_keys(request: Request, name: str) -> Response:
    """What opens the endpoint, once somebody asks for it."""
    workspace = workspace_of(request)
    endpoint = service.get(workspace, name)
    return _keys(request, endpoint, shown_of(workspace, endpoint))


def hide_keys(request: Request, name: str) -> Response:
    """The same part of the page without them."""
    return _keys(request, service.get(workspace_of(request), name), {})


def rotate_key(request: Request, name: str) -> Response:
    """Replace one key; whoever uses the old one is refused from here on."""
    workspace, which = workspace_of(request), form_of(request).get("which", "")
    if which not in ("primary", "secondary"):
        raise InputError([Fault("which", repr(which), "primary or secondary")])
    kind: Literal["primary", "secondary"] = "primary" if which == "primary" else "secondary"
    keys.regenerate(workspace, name, kind)
    endpoint = service.get(workspace, name)
    return _keys(request, endpoint, shown_of(workspace, endpoint), rotated=kind)


def shown_of(workspace: Workspace, endpoint: Endpoint) -> dict[str, str]:
    """The keys of an endpoint by name, or a token for one that takes tokens."""
    if endpoint.auth_mode == "key":
        return {"primary": endpoint.primary_key, "secondary": endpoint.secondary_key}
    return {"token": keys.token(workspace, endpoint)}


def _keys(
    request: Request, endpoint: Endpoint, shown: Mapping[str, str], rotated: str = ""
) -> Response:
    values: dict[str, Any] = {
        "endpoint": endpoint,
        "link": page_of(endpoint.name),
        "shown_keys": shown,
        "rotated": rotated,
    }
    return part(request, "endpoint_keys.html", endpoint.name, **values)


def part(request: Request, template: str, endpoint: str, /, **values: Any) -> Response:
    """A part of an endpoint's page for htmx; to a browser without scripts a page of its own."""
    if request.headers.get("hx-request"):
        return fragment(request, template, **values)
    around = {"title": endpoint, "active": "endpoints", "part": template}
    return page(request, "endpoint_part.html", **around, **values)


def delete_deployment(request: Request, name: str, deployment: str) -> Response:
    """Let a deployment go."""
    service.deployment(workspace_of(request), name, deployment)
    service.delete_deployment(workspace_of(request), name, deployment)
    wake(request)
    return go(request, page_of(name), f"{deployment} ends. Its answers under way are finished.")


def delete(request: Request, name: str) -> Response:
    """Let an endpoint go with all its deployments, once its name was written."""
    service.get(workspace_of(request), name)
    if form_of(request).get("name", "").strip() != name:
        raise InputError([Fault("name", "another name", name, "Write the endpoint's name.")])
    service.delete(workspace_of(request), name)
    wake(request)
    return go(request, "/studio/endpoints", f"The endpoint {name} ends with its deployments.")


def wake(request: Request) -> None:
    """Have the supervisor look at once, where one runs."""
    if (running := getattr(request.app.state, "endpoints", None)) is not None:
        running.supervisor.wake()


def page_of(name: str) -> str:
    """The page of an endpoint."""
    return f"/studio/endpoints/{segment(name)}"

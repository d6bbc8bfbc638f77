"""Deploy a model: what may be chosen, and what a form's choice becomes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from finery.endpoints import replicas, service
from finery.endpoints.rules import MOST_INSTANCES, name_faults
from finery.endpoints.service import WantedDeployment, WantedEndpoint
from finery.endpoints.values import ENGINES, Endpoint
from finery.errors import Fault, FineryError, InputError
from finery.studio.endpoints_changes import page_of, put_traffic, wake, whole
from finery.studio.layout import form_of, go, page, workspace_of
from finery.workspace import assets, references
from finery.workspace.asset import Asset
from finery.workspace.errors import NotFoundError
from finery.workspace.place import Workspace

AT_ONCE, TIMEOUT = 8, 180  # as `finery deploy` has them
COLOURS = ("blue", "green")  # what deployments are called where nobody says


@dataclass(frozen=True)
class Choice:
    """A model that can be deployed."""

    uri: str
    text: str


def form(request: Request, model: str = "", registry: str = "", endpoint: str = "") -> Response:
    """What to deploy, where, and how."""
    workspace = workspace_of(request)
    chosen = _asked(workspace, model, registry) if model else None
    names = [one.name for one in service.find(workspace) if one.state != "Deleting"]
    asked = endpoint or (_endpoint_name(chosen.name) if chosen else "")
    return page(
        request,
        "endpoint_deploy.html",
        title="Deploy a model",
        active="endpoints",
        chosen=references.asset_uri(chosen) if chosen else "",
        choices=choices(workspace, chosen),
        endpoint=asked,
        endpoints=names,
        deployment=free_name(workspace, asked),
        engines=ENGINES,
        at_once=AT_ONCE,
        most_replicas=MOST_INSTANCES,
    )


def choices(workspace: Workspace, chosen: Asset | None = None) -> dict[str, list[Choice]]:
    """Every model by where it is from; of each its latest version, and the one asked for."""
    found = {"This workspace": _latest(workspace, "")}
    for registry in workspace.settings.registries:
        found[f"Registry {registry}"] = _latest(workspace, registry)
    if chosen is not None:
        place = f"Registry {chosen.registry}" if chosen.registry else "This workspace"
        one = Choice(references.asset_uri(chosen), f"{chosen.name}:{chosen.version}")
        if one not in found.setdefault(place, []):
            found[place].insert(0, one)
    return {place: models for place, models in found.items() if models}


def _latest(workspace: Workspace, registry: str) -> list[Choice]:
    return [
        Choice(
            references.asset_uri(Asset("model", registry, one.name, one.latest_version)),
            f"{one.name}:{one.latest_version}",
        )
        for one in assets.names(workspace, "model", registry)
        if one.latest_version
    ]


def _asked(workspace: Workspace, model: str, registry: str) -> Asset:
    """The model that an address names as NAME or NAME:VERSION; raises NotFoundError."""
    name, _, version = model.partition(":")
    return assets.get(workspace, "model", registry, name, version or "latest")


def _endpoint_name(model: str) -> str:
    """A name that an endpoint of this model may have."""
    words = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:28].strip("-")
    return words if words[:1].isalpha() and len(words) > 2 else f"chat-{words}".strip("-")


def free_name(workspace: Workspace, endpoint: str) -> str:
    """A name that no deployment of the endpoint has."""
    try:
        taken = {one.name for one in service.deployments_of(workspace, endpoint)}
    except NotFoundError:
        taken = set()
    names = [*COLOURS, *(f"{COLOURS[0]}-{n}" for n in range(2, 2 + len(taken)))]
    return next(name for name in names if name not in taken)


def deploy(request: Request) -> Response:
    """Have a model served; the page of its endpoint then shows how far it is."""
    workspace, form = workspace_of(request), form_of(request)
    name = form.get("endpoint", "").strip()
    wanted = _wanted(workspace, form)
    endpoint = _endpoint(workspace, name)
    if any(one.name == wanted.name for one in service.deployments_of(workspace, name)):
        expected = f"a name that is free, such as {free_name(workspace, name)}"
        raise InputError([Fault("deployment", f"{wanted.name}, which is there", expected)])
    service.put_deployment(workspace, wanted)
    is_first = not any(endpoint.traffic.values())
    if is_first:
        put_traffic(workspace, endpoint, {wanted.name: 100}, endpoint.mirror_traffic)
    wake(request)
    said = "has all the traffic" if is_first else "gets no traffic until you give it some"
    return go(request, page_of(name), f"{wanted.name} is started; it {said}.")


def _wanted(workspace: Workspace, form: Mapping[str, str]) -> WantedDeployment:
    """The deployment that a form describes; raises InputError with every fault."""
    faults: list[Fault] = []
    given = {"engine": "auto", "replicas": "1", "at_once": str(AT_ONCE), **form}
    endpoint, engine = given.get("endpoint", "").strip(), given["engine"]
    count = whole(given, "replicas", f"a whole number from 1 to {MOST_INSTANCES}", faults)
    at_once = whole(given, "at_once", "a whole number from 1", faults)
    model, uri = _model(workspace, given.get("model", ""), faults)
    wanted = WantedDeployment(
        endpoint=endpoint,
        name=given.get("deployment", "").strip() or free_name(workspace, endpoint),
        model=model,
        instance_count=count,
        at_once=at_once,
        timeout_seconds=float(TIMEOUT),
        engine=engine,
        environment=_variables(engine),
        wire=_wire(uri, engine, count, at_once),
    )
    known = {fault.where for fault in faults}
    faults += name_faults(endpoint, "endpoint")
    if not known & {"replicas", "at_once"}:  # a size that is no number is said once
        faults += service.deployment_faults(wanted)
    if faults:
        raise InputError(faults, "deployment")
    return wanted


def _model(workspace: Workspace, uri: str, faults: list[Fault]) -> tuple[str, str]:
    """What a replica loads, a folder or the source of a registry's model; and its full URI."""
    if not uri:
        faults.append(Fault("model", "none", "a model: choose one"))
        return "", ""
    try:
        found = references.resolve_input(workspace, uri, "custom_model", where="model")
    except InputError as error:
        faults += error.faults
        return "", ""
    except FineryError as error:
        faults.append(Fault("model", uri, "a model that is there", str(error)))
        return "", ""
    return str(found.path) if found.path else found.source, found.uri


def _variables(engine: str) -> dict[str, str]:
    return {} if engine == "auto" else {replicas.ENGINE: engine}


def _wire(model: str, engine: str, count: int, at_once: int) -> dict[str, Any]:
    """The same as the SDK would have sent, so that it reads what the studio made."""
    return {
        "location": "local",
        "sku": {"name": "Default", "capacity": count},
        "properties": {
            "endpointComputeType": "Managed",
            "model": model,
            "instanceType": "Standard_local",
            "environmentVariables": _variables(engine),
            "requestSettings": {
                "requestTimeout": f"PT{TIMEOUT}S",
                "maxConcurrentRequestsPerInstance": at_once,
            },
        },
    }


def _endpoint(workspace: Workspace, name: str) -> Endpoint:
    """The endpoint; one that is not there yet is made, and asks for keys."""
    try:
        return service.get(workspace, name)
    except NotFoundError:
        wire = {
            "location": "local",
            "identity": {"type": "SystemAssigned"},
            "properties": {"authMode": "Key", "description": ""},
        }
        return service.put(workspace, WantedEndpoint(name, wire=wire))

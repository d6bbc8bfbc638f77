"""What the pages show of an endpoint: its deployments, replicas, addresses, canaries."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from finery.endpoints import canary_steps, replicas, service
from finery.endpoints.canary import NEEDED
from finery.endpoints.canary_record import figures, odds, read_watched
from finery.endpoints.gateway import control
from finery.endpoints.gateway.counts import Figures, Stats
from finery.endpoints.values import Canary, Deployment, Endpoint, Replica
from finery.errors import FineryError
from finery.studio import results
from finery.studio.formats import COLOURS
from finery.workspace import references
from finery.workspace.place import Workspace

WHY_LINES = 15  # of the log of a deployment that failed


@dataclass(frozen=True)
class ShownDeployment:
    """A deployment with everything that is known of it at this moment."""

    deployment: Deployment
    model: str
    model_link: str  # "" where the model has no page
    share: int  # percent of the traffic
    mirrored: int
    colour: int  # of the chart palette
    replicas: Sequence[Replica]
    report: Mapping[str, Any]  # engine, precision, context, … as its newest replica says
    host: str  # the deployment whose process answers for it; "" when it has its own
    figures: Figures | None  # since the gateway started; None when they are not known
    why: str  # the last lines of its log, when it failed

    @property
    def ready(self) -> int:
        """How many of its replicas answer."""
        return sum(replica.state == "ready" for replica in self.replicas)


@dataclass(frozen=True)
class Addresses:
    """Where an endpoint is asked."""

    openai: str
    scoring: str


def deployments(
    workspace: Workspace, endpoint: Endpoint, counted: Stats | None = None
) -> list[ShownDeployment]:
    """The deployments of an endpoint, in the order in which they were made.

    `counted` is what the gateway has counted, where that is shown.
    """
    name = endpoint.name
    every = service.replicas_of(workspace, name)
    reports = service.reports_of(workspace, name)
    there = service.deployments_of(workspace, name)
    hues = colours([one.name for one in there])
    return [
        _shown(workspace, endpoint, one, every, reports.get(one.name, {}), counted, hues[one.name])
        for one in there
    ]


def colours(names: Sequence[str]) -> dict[str, int]:
    """A colour of the chart palette for each deployment; blue and green look their names."""
    own = {"blue": 0, "green": 2}
    others = itertools.cycle(hue for hue in range(COLOURS) if hue not in own.values())
    return {name: own[name] if name in own else next(others) for name in names}


def _shown(
    workspace: Workspace,
    endpoint: Endpoint,
    one: Deployment,
    every: Sequence[Replica],
    report: Mapping[str, Any],
    counted: Stats | None,
    hue: int,
) -> ShownDeployment:
    text, link = model_of(one)
    key = (endpoint.name, one.name)
    return ShownDeployment(
        deployment=one,
        model=text,
        model_link=link,
        share=endpoint.traffic.get(one.name, 0),
        mirrored=endpoint.mirror_traffic.get(one.name, 0),
        colour=hue,
        replicas=[replica for replica in every if replica.deployment == one.name],
        report=report,
        host=service.host_of(workspace, *key),
        figures=counted.figures.get(key, Figures()) if counted else None,
        why=last_words(workspace, one) if one.state == "Failed" else "",
    )


def last_words(workspace: Workspace, one: Deployment) -> str:
    """The end of the log of its newest replica, unless the error has quoted it already."""
    log = replicas.newest_log(workspace, one.endpoint, one.name)
    text = replicas.tail(log, WHY_LINES) if log else ""
    last = text.strip().rpartition("\n")[2]
    return "" if last and last in (one.error or {}).get("message", "") else text


def model_of(one: Deployment) -> tuple[str, str]:
    """The model of a deployment as people name it, and its page."""
    asked = str((one.wire.get("properties") or {}).get("model") or "")
    try:
        found = references.parse(asked)
    except FineryError:
        found = None
    if isinstance(found, references.AssetVersion):
        return f"{found.name}:{found.version}", results.link_of(asked)
    return asked or PurePosixPath(one.model).name, ""


def addresses(workspace: Workspace, endpoint: str) -> Addresses:
    """Where an endpoint is asked; the plain address is for programs on this machine."""
    at = control.addresses(workspace)
    settings = workspace.settings
    https, http = (at.https_url, at.http_url) if at else (settings.base_url, settings.http_url)
    return Addresses(f"{http}/endpoints/{endpoint}/v1", f"{https}/endpoints/{endpoint}/score")


def mark(endpoint: Endpoint, names: Sequence[str]) -> str:
    """A short name of how an endpoint's traffic stands: a form says which one it was made for."""
    stand = [dict(endpoint.traffic), dict(endpoint.mirror_traffic), sorted(names)]
    text = json.dumps(stand, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def canary(workspace: Workspace, endpoint: str) -> dict[str, Any] | None:
    """The canary that runs, else the last one; None when there never was one."""
    found = canary_steps.find(workspace, endpoint)
    return _canary(found[0]) if found else None


def _canary(one: Canary) -> dict[str, Any]:
    watched = read_watched(one.watch)
    return {
        "it": one,
        "share": one.steps[one.position],
        "answered": one.watch["answered"],
        "figures": {
            one.stable: figures(watched.stable + watched.open_stable),
            one.canary: figures(watched.canary + watched.open_canary),
        },
        "evidence": {guard: odds(found) for guard, found in watched.evidence.items()},
        "needed": round(math.exp(NEEDED)),  # from these odds on it is rolled back
        "history": list(one.history),
    }

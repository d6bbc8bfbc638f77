"""Adapters of one base share a process: a replica of one deployment is host to others' adapters.

Only where the engine is torch by wish, as no other serves several adapters, and within one
endpoint. A guest is a row of its own with the port and key of its host; the gateway asks it like
any replica and says which adapter is meant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from finery.endpoints.values import Deployment, Form, Replica
from finery.errors import FineryError
from finery.files import read_json

ADAPTER_CONFIG = "adapter_config.json"  # PEFT's
LOAD_LIMIT = 600.0  # seconds that an adapter has to be loaded and proved
HOMELESS = -1  # the revision under which a guest counts whose host is to end


@dataclass(frozen=True)
class Parts:
    """What an adapter's form is made of."""

    base: str  # a model folder, or a source as the adapter names it
    adapter: Path  # the adapter's own folder


def parts_of(form: Form) -> Parts | None:
    """Base and adapter of a form whose replicas may share a process; None for all others."""
    folder = Path(form.model)
    if form.engine != "torch" or (folder / "config.json").is_file():
        return None
    if not (folder / ADAPTER_CONFIG).is_file():
        if (folder / "model" / "config.json").is_file():
            return None  # a run whose adapter is merged already
        folder = folder / "adapter"
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    return Parts(str(base), folder) if base else None


def adapter_name(deployment: str, revision: int) -> str:
    """What the process calls the adapter; no deployment can be called so."""
    return f"{deployment}.{revision}"


def host_for(
    wanted: Deployment, form: Form, deployments: Sequence[Deployment], there: Sequence[Replica]
) -> Replica | None:
    """The replica in whose process another one of `wanted` fits; the one with fewest guests."""
    parts = parts_of(form)
    if parts is None:
        return None
    taken = {one.host for one in there if _same(one, wanted)}
    guests = Counter(one.host for one in there)
    fitting = [
        one
        for one in there
        if one.endpoint == wanted.endpoint
        and one.deployment != wanted.name
        and not one.host
        and one.state == "ready"
        and one.id not in taken
        and _serves(one, form, parts, deployments)
    ]
    return min(fitting, key=lambda one: guests[one.id], default=None)


def _serves(host: Replica, form: Form, parts: Parts, deployments: Sequence[Deployment]) -> bool:
    """Whether the host's process is the one that the form would start, but for the adapter."""
    for one in deployments:
        for known in (one.form, one.proven):
            if known and _same(host, one) and known.revision == host.revision:
                theirs = parts_of(known)
                base = theirs.base if theirs else known.model  # the base itself may be deployed
                return (
                    known.engine == form.engine
                    and _place(base) == _place(parts.base)
                    and (known.environment, known.at_once) == (form.environment, form.at_once)
                )
    return False


def _place(base: str) -> str:
    """A folder by its real path: imported models lie in a folder named by their content."""
    return str(Path(base).resolve()) if Path(base).is_dir() else base


def _same(replica: Replica, deployment: Deployment) -> bool:
    return (replica.endpoint, replica.deployment) == (deployment.endpoint, deployment.name)


def rehomed(living: Sequence[Replica], there: Mapping[str, Replica]) -> list[Replica]:
    """The replicas, with guests whose host is to end marked: others must come before they go."""
    return [
        replace(one, revision=HOMELESS)
        if one.host and (one.host not in there or there[one.host].state == "stopping")
        else one
        for one in living
    ]


def load(host: Replica, name: str, folder: Path) -> str:
    """Have the host take an adapter in; why it refuses, "" when it answers for it from now on.

    Raises FineryError when the host does not answer: it may be asked again.
    """
    body = {"name": name, "folder": str(folder)}
    response = _ask(host, "POST", "/adapters", body)
    return "" if response.is_success else _reason(response)


def unload(host: Replica, name: str) -> None:
    """Have the host let an adapter go; answers that began with it end with it."""
    response = _ask(host, "DELETE", f"/adapters/{name}", None)
    if response.is_error and response.status_code != 404:
        raise FineryError(f"The adapter {name} is not let go: {_reason(response)}")


def _ask(host: Replica, method: str, path: str, body: object) -> httpx.Response:
    try:
        return httpx.request(
            *(method, f"http://127.0.0.1:{host.port}{path}"),
            json=body,
            headers={"authorization": f"Bearer {host.key}"},
            timeout=LOAD_LIMIT,
            trust_env=False,
        )
    except httpx.HTTPError as error:
        raise FineryError(f"The replica does not answer ({type(error).__name__}).") from None


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:1000]

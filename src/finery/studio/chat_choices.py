"""Who may be asked in the chat: deployments that answer; and which models could be among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from finery.endpoints import service
from finery.endpoints.values import Deployment, Endpoint
from finery.errors import FineryError
from finery.studio.endpoints_view import model_of
from finery.studio.models import lineage_of
from finery.workspace import assets, references
from finery.workspace.asset import Asset
from finery.workspace.place import Workspace

MOST_SILENT = 12  # models without an endpoint that are offered


@dataclass(frozen=True)
class ChatVoice:
    """Somebody to ask."""

    address: str  # ENDPOINT/DEPLOYMENT, or ENDPOINT for whichever the traffic goes to
    endpoint: str
    deployment: str
    model: str
    kind: str  # base, tuned, "" where nobody knows
    ready: int  # replicas that answer


@dataclass(frozen=True)
class SilentModel:
    """A model that no endpoint serves."""

    text: str
    kind: str
    deploy: str  # where it is deployed


def voices(workspace: Workspace) -> list[ChatVoice]:
    """Every deployment, and before those of an endpoint with shared traffic the endpoint."""
    found: list[ChatVoice] = []
    for endpoint in service.find(workspace):
        if endpoint.state == "Deleting":
            continue
        found += _of_endpoint(workspace, endpoint)
    return found


def _of_endpoint(workspace: Workspace, endpoint: Endpoint) -> list[ChatVoice]:
    name = endpoint.name
    ready = [one.deployment for one in service.replicas_of(workspace, name) if one.state == "ready"]
    there = [one for one in service.deployments_of(workspace, name) if one.state != "Deleting"]
    made = [
        ChatVoice(
            address=f"{name}/{one.name}",
            endpoint=name,
            deployment=one.name,
            model=model_of(one)[0],
            kind=_kind(workspace, one),
            ready=ready.count(one.name),
        )
        for one in there
    ]
    shares = [one for one in there if endpoint.traffic.get(one.name)]
    if len(shares) > 1:
        words = ", ".join(f"{one.name} {endpoint.traffic[one.name]} %" for one in shares)
        some = sum(ready.count(one.name) for one in shares)
        made.insert(0, ChatVoice(name, name, "", words, "by its traffic", some))
    return made


def _model(workspace: Workspace, one: Deployment) -> Asset | None:
    """The registered model of a deployment, None where it is something else, or gone."""
    asked = str((one.wire.get("properties") or {}).get("model") or "")
    try:
        reference = references.parse(asked)
        if isinstance(reference, references.AssetVersion):
            return references.find_asset(workspace, reference, "custom_model")
    except FineryError:
        return None
    return None


def _kind(workspace: Workspace, one: Deployment) -> str:
    model = _model(workspace, one)
    return _kind_of(model) if model else ""


def _kind_of(model: Asset) -> str:
    if model.registry:
        return "base"
    return "tuned" if lineage_of(model)["base_model"] else ""


def silent(workspace: Workspace) -> list[SilentModel]:
    """Registered models, and the bases of tuned ones, that no endpoint serves."""
    served = _served(workspace)
    found: dict[str, SilentModel] = {}
    for model in assets.newest(workspace, "model", ""):
        if len(found) >= MOST_SILENT:
            break
        for one in (model, _base(workspace, model)):
            if one is not None and references.asset_uri(one) not in served:
                found.setdefault(references.asset_uri(one), _silent(one))
    return list(found.values())[:MOST_SILENT]


def _served(workspace: Workspace) -> set[str]:
    return {
        references.asset_uri(model)
        for endpoint in service.find(workspace)
        for one in service.deployments_of(workspace, endpoint.name)
        if (model := _model(workspace, one))
    }


def _base(workspace: Workspace, model: Asset) -> Asset | None:
    """The model that a tuned one was made of, where the workspace or a registry has it."""
    base: Mapping[str, Any] = lineage_of(model)["base_model"]
    try:
        reference = references.parse(str(base.get("uri") or ""))
        if isinstance(reference, references.AssetVersion):
            return references.find_asset(workspace, reference, "custom_model")
    except FineryError:
        return None
    return None


def _silent(model: Asset) -> SilentModel:
    query = {"model": f"{model.name}:{model.version}"}
    query |= {"registry": model.registry} if model.registry else {}
    text = f"{model.name}:{model.version}"
    return SilentModel(text, _kind_of(model), f"/studio/deploy?{urlencode(query)}")


def data_names(workspace: Workspace) -> list[str]:
    """Data assets that a conversation can be added to: files of rows."""
    return [one.name for one in assets.names(workspace, "data", "") if one.type == "uri_file"]

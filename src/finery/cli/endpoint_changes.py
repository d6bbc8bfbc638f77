"""What several commands do with endpoints: make one, share its traffic, tell about it."""

from __future__ import annotations

from typing import Any

from finery.cli.client import Service
from finery.cli.tables import print_facts
from finery.errors import Fault, InputError

KIND = "onlineEndpoints"
REPORTED = "finery.reported."  # before what replicas say of themselves, among the properties
# What a change of traffic sends along, so that it is kept.
_KEPT = ("authMode", "description", "publicNetworkAccess", "properties")
_TOLD = (
    *("scoringUri", "openaiBaseUrl", "swaggerUri", "traffic", "mirrorTraffic"),
    *("authMode", "provisioningState", "description"),
)


def create_endpoint(service: Service, name: str, description: str = "") -> dict[str, Any]:
    """A new endpoint that asks for keys."""
    body = {
        "location": "local",
        "identity": {"type": "SystemAssigned"},
        "properties": {"authMode": "Key", "description": description},
    }
    return service.finish(service.ask("PUT", KIND, name, body=body))


def set_traffic(
    service: Service, name: str, shares: dict[str, int], mirror: dict[str, int] | None = None
) -> dict[str, Any]:
    """The endpoint with other shares; its mirror stays unless another is given."""
    endpoint = service.get(KIND, name)
    about = {key: one for key, one in endpoint["properties"].items() if key in _KEPT}
    whole = {key: endpoint[key] for key in ("location", "tags", "identity") if key in endpoint}
    present = endpoint["properties"].get("mirrorTraffic") or {}
    mirrored = present if mirror is None else mirror
    properties = {**about, "traffic": shares, "mirrorTraffic": mirrored}
    body = {**whole, "properties": properties}
    return service.finish(service.ask("PUT", KIND, name, body=body))


def parse_shares(texts: list[str], where: str = "shares") -> dict[str, int]:
    """DEPLOYMENT=PERCENT, several of them; raises InputError with every one that is none."""
    wanted, faults = {}, []
    for text in texts:
        deployment, _, percent = text.partition("=")
        if deployment and percent.isascii() and percent.isdigit():
            wanted[deployment] = int(percent)
        else:
            faults.append(Fault(where, repr(text), "DEPLOYMENT=PERCENT, such as blue=90"))
    if faults:
        raise InputError(faults)
    return wanted


def key_of(service: Service, name: str) -> str:
    """What opens the endpoint: its primary key, or a token where it takes tokens."""
    mode = (service.get(KIND, name)["properties"].get("authMode") or "Key").lower()
    if mode == "key":
        return service.ask("POST", KIND, name, "listKeys").json()["primaryKey"]
    return service.ask("POST", KIND, name, "token").json()["accessToken"]


def flat(endpoint: dict[str, Any]) -> dict[str, Any]:
    """The endpoint with what a program looks for at the top, beside the rest."""
    about = endpoint["properties"]
    return {**endpoint, **{key: about[key] for key in _TOLD if key in about}}


def print_endpoint(endpoint: dict[str, Any]) -> None:
    """An endpoint in a few lines."""
    about = endpoint["properties"]
    facts = {"name": endpoint["name"], "state": about.get("provisioningState")}
    facts |= {"Azure ML": about.get("scoringUri"), "OpenAI": about.get("openaiBaseUrl")}
    facts |= {"traffic": about.get("traffic"), "mirror": about.get("mirrorTraffic")}
    print_facts(facts | {"description": about.get("description")})


def report_of(deployment: dict[str, Any]) -> dict[str, str]:
    """What the replicas of a deployment say of themselves: engine, precision, context, proof."""
    about = deployment["properties"].get("properties") or {}
    return {
        name.removeprefix(REPORTED): value
        for name, value in about.items()
        if name.startswith(REPORTED)
    }

"""`finery compute`: names under which jobs ask for this machine, and what sizes it offers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from finery.cli.client import connect
from finery.cli.tables import AsJson, print_facts, print_json, print_table, say

app = typer.Typer(no_args_is_help=True, help="Computes that jobs name, and the sizes they can be.")

Name = Annotated[str, typer.Argument(help="The name of a compute.")]


@app.command("list")
def list_computes(as_json: AsJson = False) -> None:
    """List the computes."""
    found = list(connect().items("computes"))
    if as_json:
        print_json(found)
        return
    rows = [
        (one["name"], _inner(one).get("vmSize"), _nodes(one), _state(one), one.get("location"))
        for one in found
    ]
    columns = ("name", "size", "nodes", "state", "location")
    print_table(columns, rows, "There are no computes. `finery compute create` makes one.")


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show one compute."""
    _print(connect().get("computes", name), as_json=as_json)


@app.command()
def create(
    name: Name,
    size: Annotated[str, typer.Option(help="One of `finery compute sizes`.")] = "Standard_local",
    max_instances: Annotated[int, typer.Option(min=1, help="The most nodes of a job.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Make a compute, or change the one of that name."""
    service = connect()
    scale = {"minNodeCount": 0, "maxNodeCount": max_instances}
    inner = {"vmSize": size, "vmPriority": "Dedicated", "osType": "Linux", "scaleSettings": scale}
    body = {"location": "local", "properties": {"computeType": "AmlCompute", "properties": inner}}
    made = service.finish(service.ask("PUT", "computes", name, body=body))
    _print(made, as_json=as_json)


@app.command()
def delete(name: Name, as_json: AsJson = False) -> None:
    """Remove a compute; its finished jobs stay."""
    service = connect()
    query = {"underlyingResourceAction": "Delete"}
    service.finish(service.ask("DELETE", "computes", name, query=query))
    say(f"The compute {name} is gone.")
    if as_json:
        print_json({"name": name, "deleted": True})


@app.command()
def sizes(as_json: AsJson = False) -> None:
    """List the sizes a compute can have, with this machine's true cores, memory and GPUs."""
    service = connect()
    subscription = "/".join(service.group.split("/")[:3])
    location = service.get()["location"]
    below = f"{subscription}/providers/Microsoft.MachineLearningServices/locations/{location}"
    found = service.get("vmSizes", below=below)["value"]
    if as_json:
        print_json(found)
        return
    rows = [(s["name"], s.get("vCPUs"), s.get("memoryGB"), s.get("gpus")) for s in found]
    print_table(("size", "cores", "memory, GB", "GPUs"), rows, "There are no sizes.")


def _print(compute: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(compute)
        return
    facts = {"name": compute["name"], "type": compute["properties"].get("computeType")}
    facts |= {"size": _inner(compute).get("vmSize"), "nodes": _nodes(compute)}
    print_facts(facts | {"state": _state(compute), "location": compute.get("location")})


def _inner(compute: dict[str, Any]) -> dict[str, Any]:
    return compute["properties"].get("properties") or {}


def _nodes(compute: dict[str, Any]) -> str:
    scale = _inner(compute).get("scaleSettings") or {}
    return f"{scale.get('minNodeCount', 0)} to {scale.get('maxNodeCount', 1)}"


def _state(compute: dict[str, Any]) -> str:
    return str(compute["properties"].get("provisioningState", ""))

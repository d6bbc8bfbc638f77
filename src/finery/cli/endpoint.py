"""`finery endpoint`: models that answer, behind one address with keys and traffic shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from finery.cli.client import Service, connect
from finery.cli.model import model_id
from finery.cli.tables import AsJson, print_facts, print_json, print_table, say
from finery.errors import Fault, FineryError, InputError

app = typer.Typer(no_args_is_help=True, help="Endpoints, their deployments, traffic and keys.")

KIND = "onlineEndpoints"
Name = Annotated[str, typer.Argument(help="The name of an endpoint.")]
Deployment = Annotated[str, typer.Option(help="The name of a deployment.")]


@app.command("list")
def list_endpoints(as_json: AsJson = False) -> None:
    """List the endpoints."""
    found = list(connect().items(KIND))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            *(one["name"], one["properties"].get("provisioningState")),
            *(one["properties"].get("traffic"), one["properties"].get("scoringUri")),
        )
        for one in found
    ]
    none = "There are no endpoints. `finery endpoint deploy` makes one."
    print_table(("name", "state", "traffic", "address"), rows, none)


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show an endpoint and its deployments."""
    service = connect()
    endpoint = service.get(KIND, name)
    deployments = list(service.items(KIND, name, "deployments"))
    if as_json:
        print_json({**endpoint, "deployments": deployments})
        return
    _facts(endpoint)
    traffic = endpoint["properties"].get("traffic") or {}
    rows = [
        (
            *(one["name"], one["properties"].get("provisioningState")),
            *(f"{traffic.get(one['name'], 0)} %", (one.get("sku") or {}).get("capacity")),
            one["properties"].get("model"),
        )
        for one in deployments
    ]
    columns = ("deployment", "state", "traffic", "replicas", "model")
    typer.echo()
    print_table(columns, rows, "It has no deployments. `finery endpoint deploy` makes one.")


@app.command()
def create(
    name: Name,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make an endpoint without deployments."""
    endpoint = _create(connect(), name, description)
    if as_json:
        print_json(endpoint)
    else:
        _facts(endpoint)


@app.command()
def deploy(
    name: Name,
    model: Annotated[str, typer.Option(help="NAME (the newest version), NAME:VERSION or an id.")],
    deployment: Deployment = "default",
    instances: Annotated[int, typer.Option(min=1, help="How many replicas.")] = 1,
    size: Annotated[str, typer.Option(help="One of `finery compute sizes`.")] = "Standard_local",
    timeout: Annotated[int, typer.Option(min=1, help="Longest answer, in seconds.")] = 90,
    traffic: Annotated[
        int | None, typer.Option(min=0, max=100, help="Its share; 100 for the first one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let a model answer at an endpoint, which is made when it is not there yet."""
    service = connect()
    found = model_id(service, model)
    endpoint = service.find(KIND, name) or _create(service, name, "")
    body = {
        "location": endpoint.get("location", "local"),
        "sku": {"name": "Default", "capacity": instances},
        "properties": {
            "endpointComputeType": "Managed",
            "model": found,
            "instanceType": size,
            "requestSettings": {"requestTimeout": f"PT{timeout}S"},
        },
    }
    say(f"Starting {deployment} at {name} …")
    made = service.finish(service.ask("PUT", KIND, name, "deployments", deployment, body=body))
    shares = endpoint["properties"].get("traffic") or {}
    if traffic is None and not any(shares.values()):
        traffic = 100
    if traffic is not None:
        endpoint = _set_traffic(service, name, {**shares, deployment: traffic})
    if as_json:
        print_json(made)
    else:
        _facts(endpoint)


@app.command()
def traffic(
    name: Name,
    shares: Annotated[
        list[str],
        typer.Argument(metavar="DEPLOYMENT=PERCENT…", help="Shares; one left out gets none."),
    ],
    as_json: AsJson = False,
) -> None:
    """Set how requests are shared out among deployments; the shares sum to 100, or to 0."""
    wanted, faults = {}, []
    for text in shares:
        deployment, _, percent = text.partition("=")
        if deployment and percent.isascii() and percent.isdigit():
            wanted[deployment] = int(percent)
        else:
            faults.append(Fault("shares", repr(text), "DEPLOYMENT=PERCENT, such as blue=90"))
    if faults:
        raise InputError(faults)
    endpoint = _set_traffic(connect(), name, wanted)
    if as_json:
        print_json(endpoint)
    else:
        _facts(endpoint)


@app.command()
def keys(
    name: Name,
    regenerate: Annotated[
        str, typer.Option(metavar="primary|secondary", help="Replace this key first.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show the keys of an endpoint. Whoever has one may ask its models."""
    service = connect()
    if regenerate:
        if regenerate not in ("primary", "secondary"):
            raise InputError([Fault("--regenerate", repr(regenerate), "primary or secondary")])
        body = {"keyType": regenerate.capitalize()}
        service.finish(service.ask("POST", KIND, name, "regenerateKeys", body=body))
    found = service.ask("POST", KIND, name, "listKeys").json()
    if as_json:
        print_json(found)
    else:
        shown = {"primary": found["primaryKey"], "secondary": found.get("secondaryKey")}
        print_facts(shown)


@app.command()
def invoke(
    name: Name,
    message: Annotated[str, typer.Option(help="What to say to the model.")] = "",
    request_file: Annotated[
        Path | None, typer.Option(help="A file with the whole JSON body instead.", exists=True)
    ] = None,
    deployment: Annotated[str, typer.Option(help="Ask this one, whatever the traffic.")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Ask the model at an endpoint."""
    if bool(message) == (request_file is not None):
        raise InputError([Fault("invoke", "both or neither", "--message or --request-file")])
    if request_file is not None:
        content = request_file.read_bytes()
    else:
        parameters = {"max_new_tokens": max_new_tokens}
        turns = [{"role": "user", "content": message}]
        asked = {"input_data": {"input_string": turns, "parameters": parameters}}
        content = json.dumps(asked).encode()
    service = connect()
    key = service.ask("POST", KIND, name, "listKeys").json()["primaryKey"]
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    if deployment:
        headers["azureml-model-deployment"] = deployment
    address = service.get(KIND, name)["properties"]["scoringUri"]
    answer = service.send(
        service.http.build_request("POST", address, content=content, headers=headers)
    ).json()
    if as_json:
        print_json(answer)
    else:
        _print_answer(answer)


@app.command()
def delete(
    name: Name,
    deployment: Annotated[str, typer.Option(help="This deployment alone.")] = "",
    as_json: AsJson = False,
) -> None:
    """Stop and remove an endpoint with its deployments, or one deployment."""
    service = connect()
    parts = (KIND, name, "deployments", deployment) if deployment else (KIND, name)
    service.finish(service.ask("DELETE", *parts))
    what = f"The deployment {deployment} of {name}" if deployment else f"The endpoint {name}"
    say(f"{what} is gone.")
    if as_json:
        print_json({"name": deployment or name, "deleted": True})


@app.command()
def logs(
    name: Name,
    deployment: Deployment = "default",
    lines: Annotated[int, typer.Option(min=1, help="How many, from the end.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show what a deployment's replicas say."""
    from finery.evaluation.markup import plain

    body = {"containerType": "InferenceServer", "tail": lines}
    parts = (KIND, name, "deployments", deployment, "getLogs")
    found = connect().ask("POST", *parts, body=body).json()
    if as_json:
        print_json(found)
    else:
        typer.echo(plain(found["content"]))


def _create(service: Service, name: str, description: str) -> dict[str, Any]:
    body = {
        "location": "local",
        "identity": {"type": "SystemAssigned"},
        "properties": {"authMode": "Key", "description": description},
    }
    return service.finish(service.ask("PUT", KIND, name, body=body))


def _set_traffic(service: Service, name: str, shares: dict[str, int]) -> dict[str, Any]:
    endpoint = service.get(KIND, name)
    kept = ("authMode", "description", "mirrorTraffic", "publicNetworkAccess", "properties")
    about = {key: one for key, one in endpoint["properties"].items() if key in kept}
    whole = {key: endpoint[key] for key in ("location", "tags", "identity") if key in endpoint}
    body = {**whole, "properties": {**about, "traffic": shares}}
    return service.finish(service.ask("PUT", KIND, name, body=body))


def _facts(endpoint: dict[str, Any]) -> None:
    about = endpoint["properties"]
    facts = {"name": endpoint["name"], "state": about.get("provisioningState")}
    facts |= {"address": about.get("scoringUri"), "traffic": about.get("traffic")}
    print_facts(facts | {"description": about.get("description")})


def _print_answer(answer: Any) -> None:
    """The text of an answer of any of the server's shapes."""
    from finery.evaluation.markup import plain

    rows = answer if isinstance(answer, list) else [answer]
    for row in rows:
        output = row.get("output", row) if isinstance(row, dict) else row
        if isinstance(output, dict | list) or output is None:
            raise FineryError(f"The endpoint answered {json.dumps(row)[:400]}.")
        typer.echo(plain(str(output)))

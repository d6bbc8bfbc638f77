"""`finery endpoint`: models that answer, behind one address with keys and traffic shares."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from finery.cli import deploy, endpoint_ask, endpoint_canary
from finery.cli.client import connect
from finery.cli.endpoint_changes import (
    KIND,
    create_endpoint,
    flat,
    parse_shares,
    print_endpoint,
    report_of,
    set_traffic,
)
from finery.cli.tables import AsJson, print_facts, print_json, print_table, say
from finery.errors import Fault, InputError
from finery.evaluation.markup import plain

app = typer.Typer(no_args_is_help=True, help="Endpoints, their deployments, traffic and keys.")

Name = Annotated[str, typer.Argument(help="The name of an endpoint.")]
KEYS = ("primary", "secondary")


@app.command("list")
def list_endpoints(as_json: AsJson = False) -> None:
    """List the endpoints."""
    found = [flat(one) for one in connect().items(KIND)]
    if as_json:
        print_json(found)
        return
    rows = [
        (one["name"], one.get("provisioningState"), one.get("traffic"), one.get("scoringUri"))
        for one in found
    ]
    none = "There are no endpoints. `finery deploy MODEL --endpoint NAME` makes one."
    print_table(("name", "state", "traffic", "address"), rows, none)


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show an endpoint and its deployments."""
    service = connect()
    endpoint = service.get(KIND, name)
    deployments = list(service.items(KIND, name, "deployments"))
    if as_json:
        told = [{**one, **report_of(one)} for one in deployments]
        print_json({**flat(endpoint), "deployments": told})
        return
    print_endpoint(endpoint)
    shares = endpoint["properties"].get("traffic") or {}
    columns = ("deployment", "state", "traffic", "replicas", "engine", "precision", "model")
    typer.echo()
    rows = [_row(one, shares) for one in deployments]
    none = f"It has no deployments. `finery deploy MODEL --endpoint {name}` makes one."
    print_table(columns, rows, none)
    for one in deployments:
        if why := report_of(one).get("error"):
            typer.echo(plain(f"\n{one['name']} failed. {why}"))


def _row(deployment: dict[str, Any], shares: dict[str, int]) -> tuple[Any, ...]:
    about, report = deployment["properties"], report_of(deployment)
    return (
        *(deployment["name"], about.get("provisioningState")),
        *(f"{shares.get(deployment['name'], 0)} %", (deployment.get("sku") or {}).get("capacity")),
        *(report.get("engine") or about.get("engine"), report.get("precision")),
        _short(about.get("model") or ""),
    )


def _short(model: str) -> str:
    """NAME:VERSION of a model's id."""
    match = re.search(r"/models/([^/]+)/versions/([^/]+)$", model)
    return f"{match[1]}:{match[2]}" if match else model


@app.command()
def create(
    name: Name,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make an endpoint without deployments."""
    endpoint = create_endpoint(connect(), name, description)
    if as_json:
        print_json(flat(endpoint))
    else:
        print_endpoint(endpoint)


@app.command()
def traffic(
    name: Name,
    shares: Annotated[
        list[str],
        typer.Argument(metavar="DEPLOYMENT=PERCENT…", help="Shares; one left out gets none."),
    ],
    mirror: Annotated[
        str,
        typer.Option(
            metavar="DEPLOYMENT=PERCENT", help="Send it copies, at most 50 %; 0 ends that."
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Set how requests are shared out among deployments; the shares sum to 100, or to 0."""
    wanted = parse_shares(shares)
    mirrored = parse_shares([mirror], "--mirror") if mirror else None
    endpoint = set_traffic(connect(), name, wanted, mirrored)
    if as_json:
        print_json(flat(endpoint))
    else:
        print_endpoint(endpoint)


@app.command()
def keys(name: Name, as_json: AsJson = False) -> None:
    """Show the keys of an endpoint. Whoever has one may ask its models."""
    found = connect().ask("POST", KIND, name, "listKeys").json()
    if as_json:
        print_json(found)
    else:
        print_facts({"primary": found["primaryKey"], "secondary": found["secondaryKey"]})


@app.command()
def rotate(
    name: Name,
    key: Annotated[
        str, typer.Option(metavar="primary|secondary|both", help="Which key to replace.")
    ] = "primary",
    as_json: AsJson = False,
) -> None:
    """Replace a key, from now on: the one it replaces opens nothing any more."""
    if key not in (*KEYS, "both"):
        raise InputError([Fault("--key", repr(key), "primary, secondary or both")])
    service = connect()
    for one in KEYS if key == "both" else (key,):
        body = {"keyType": one.capitalize()}
        service.finish(service.ask("POST", KIND, name, "regenerateKeys", body=body))
    keys(name, as_json)


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
    deployment: Annotated[str, typer.Option(help="Else the one with most traffic.")] = "",
    lines: Annotated[int, typer.Option(min=1, help="How many, from the end.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show what a deployment's replicas say."""
    service = connect()
    body = {"containerType": "InferenceServer", "tail": lines}
    parts = (KIND, name, "deployments", deployment or _busiest(service, name), "getLogs")
    found = service.ask("POST", *parts, body=body).json()
    if as_json:
        print_json(found)
    else:
        typer.echo(plain(found["content"]))


def _busiest(service: Any, name: str) -> str:
    """The deployment with most traffic, or the only one."""
    shares = service.get(KIND, name)["properties"].get("traffic") or {}
    names = [one["name"] for one in service.items(KIND, name, "deployments")]
    if not names:
        found = f"{name}, which has no deployments"
        raise InputError([Fault("endpoint", found, "one with a deployment")])
    return max(names, key=lambda one: shares.get(one, 0))


app.command("test")(endpoint_ask.ask)
app.command("invoke", hidden=True)(endpoint_ask.ask)
app.command("canary")(endpoint_canary.canary)
app.command("deploy", hidden=True)(deploy.deploy_at)

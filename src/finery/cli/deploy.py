"""`finery deploy`: from a model to something that answers, in one command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from finery.cli.client import REGISTRY, Service, connect
from finery.cli.endpoint_changes import KIND, create_endpoint, flat, report_of, set_traffic
from finery.cli.model import model_id
from finery.cli.tables import AsJson, print_facts, print_json, say
from finery.errors import Fault, InputError
from finery.workspace.errors import NotFoundError

MLFLOW, CUSTOM = "mlflow_model", "custom_model"
# What tells a folder that can be served, and which part of it that is.
_PARTS = (
    ("MLmodel", "", MLFLOW),
    ("config.json", "", CUSTOM),
    ("adapter_config.json", "", CUSTOM),
    ("config.json", "model", CUSTOM),
    ("adapter_config.json", "adapter", CUSTOM),
    ("MLmodel", "mlflow_model", MLFLOW),
)

Engine = Annotated[str, typer.Option(help="auto, torch, openvino or vllm.")]
Replicas = Annotated[int, typer.Option(min=1, help="How many processes answer.")]
AtOnce = Annotated[int, typer.Option(min=1, help="Answers a replica makes at the same time.")]
Timeout = Annotated[int, typer.Option(min=1, help="Longest answer, in seconds.")]
Size = Annotated[str, typer.Option(help="One of `finery compute sizes`.")]
Share = Annotated[int | None, typer.Option(min=0, max=100, help="Its share; 100 for the first.")]


def deploy_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL[:VERSION]",
            help="A registered model, or the folder of a run, a model or an adapter.",
        ),
    ],
    endpoint: Annotated[str, typer.Option(help="Its endpoint, made when it is not there yet.")],
    deployment: Annotated[str, typer.Option(help="The name of the deployment.")] = "blue",
    replicas: Replicas = 1,
    engine: Engine = "auto",
    at_once: AtOnce = 8,
    timeout: Timeout = 180,
    size: Size = "Standard_local",
    traffic: Share = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A variable of its processes; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let a model answer at an endpoint, and say how to ask it."""
    variables = _variables(env or [], engine)
    service = connect()
    found = _model(service, model)
    there = service.find(KIND, endpoint) or create_endpoint(service, endpoint)
    body = {
        "location": there.get("location", "local"),
        "sku": {"name": "Default", "capacity": replicas},
        "properties": {
            "endpointComputeType": "Managed",
            "model": found,
            "instanceType": size,
            "environmentVariables": variables,
            "requestSettings": {
                "requestTimeout": f"PT{timeout}S",
                "maxConcurrentRequestsPerInstance": at_once,
            },
        },
    }
    say(f"Starting {deployment} at {endpoint} …")
    asked = service.ask("PUT", KIND, endpoint, "deployments", deployment, body=body)
    made = service.finish(asked)
    there = _with_traffic(service, endpoint, deployment, traffic)
    if as_json:
        print_json({**made, **report_of(made), "endpoint": flat(there)})
    else:
        _print(there, made)


def deploy_at(
    name: Annotated[str, typer.Argument(help="The name of an endpoint.")],
    model: Annotated[str, typer.Option(help="NAME, NAME:VERSION, a folder or an id.")],
    deployment: Annotated[str, typer.Option(help="The name of the deployment.")] = "default",
    instances: Replicas = 1,
    size: Size = "Standard_local",
    timeout: Timeout = 90,
    traffic: Share = None,
    as_json: AsJson = False,
) -> None:
    """`finery deploy` with the endpoint first, as it was called before."""
    deploy_command(
        *(model, name, deployment, instances),
        timeout=timeout,
        size=size,
        traffic=traffic,
        as_json=as_json,
    )


def _variables(given: list[str], engine: str) -> dict[str, str]:
    """The variables of the deployment; the engine is one of them."""
    pairs = [text.partition("=") for text in given]
    wrong = [
        text for text, (name, sign, _) in zip(given, pairs, strict=True) if not (name and sign)
    ]
    if wrong:
        raise InputError([Fault("--env", repr(text), "NAME=VALUE") for text in wrong])
    asked = {} if engine == "auto" else {"FINERY_ENGINE": engine}
    return {**{name: value for name, _, value in pairs}, **asked}


def _with_traffic(
    service: Service, endpoint: str, deployment: str, share: int | None
) -> dict[str, Any]:
    """The endpoint with the share that was asked for; the first deployment gets everything."""
    there = service.get(KIND, endpoint)
    shares = there["properties"].get("traffic") or {}
    if share is None and not any(shares.values()):
        share = 100
    if share is None:
        return there
    return set_traffic(service, endpoint, {**shares, deployment: share})


def _model(service: Service, text: str) -> str:
    """The id of the model: a registered one, one of the registry, or a folder's."""
    folder = Path(text).expanduser()
    if "/" in text and not text.startswith("/subscriptions/") and folder.is_dir():
        return _registered(service, folder)
    try:
        return model_id(service, text)
    except NotFoundError:
        if found := _in_registry(service, text):
            return found
        if folder.is_dir():
            return _registered(service, folder)
        raise NotFoundError(
            f"No model is called {text}, and no folder. `finery model list` lists the registered "
            f"ones, `finery model list --registry {REGISTRY}` the base models."
        ) from None


def _in_registry(service: Service, text: str) -> str:
    name, _, version = text.partition(":")
    below = service.registry(REGISTRY)
    query = {"$orderBy": "createdtime desc", "$top": 1}
    try:
        found = next(iter(service.get("models", name, "versions", below=below, **query)["value"]))
    except (NotFoundError, StopIteration):
        return ""
    return f"azureml://registries/{REGISTRY}/models/{name}/versions/{version or found['name']}"


def _registered(service: Service, folder: Path) -> str:
    """A folder as a version of the model with its name; the same files are the same version."""
    from finery.cli.job_files import upload

    part, kind = served_part(folder)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name).strip("-._") or "model"
    say(f"Registering {folder} as {name} …")
    uri = upload(service, part.resolve())
    for known in service.items("models", name, "versions") if service.find("models", name) else ():
        if known["properties"].get("modelUri") == uri:
            return known["id"]
    version = str((service.find("models", name) or {}).get("properties", {}).get("nextVersion", 1))
    about = {"modelType": kind, "modelUri": uri, "description": ""}
    made = service.ask("PUT", "models", name, "versions", version, body={"properties": about})
    return made.json()["id"]


def served_part(folder: Path) -> tuple[Path, str]:
    """Which part of a folder is served, and its type; raises InputError when none is."""
    for marker, part, kind in _PARTS:
        if (folder / part / marker).is_file():
            return folder / part, kind
    expected = (
        "a run with model/ or adapter/, a model with config.json, an adapter, or an MLflow model"
    )
    raise InputError([Fault("MODEL", f"the folder {folder}", expected)])


def _print(endpoint: dict[str, Any], deployment: dict[str, Any]) -> None:
    about, report, name = endpoint["properties"], report_of(deployment), endpoint["name"]
    facts = {"endpoint": name, "deployment": deployment["name"]}
    facts |= {key: report.get(key) for key in ("engine", "precision", "context")}
    facts |= {"traffic": about.get("traffic"), "Azure ML": about.get("scoringUri")}
    print_facts(facts | {"OpenAI": about.get("openaiBaseUrl")})
    header = "-H 'Authorization: Bearer KEY' -H 'Content-Type: application/json'"
    said = '{"model": "%s", "messages": [{"role": "user", "content": "Hello"}]}' % name  # noqa: UP031
    share = (about.get("traffic") or {}).get(deployment["name"])
    following = (
        f"finery chat --endpoint {name}"
        if share
        else f"finery endpoint canary {name} --to {deployment['name']}"
    )
    typer.echo(
        f"\nAsk it (KEY is one of `finery endpoint keys {name}`):\n"
        f"  curl {about.get('openaiBaseUrl')}/chat/completions {header} \\\n    -d '{said}'\n"
        f"\nNext: {following}"
    )

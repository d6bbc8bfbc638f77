"""`finery model`: base models on this machine, registered models and their lineage."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finery.cli.client import REGISTRY, Service, connect
from finery.cli.tables import AsJson, moment, print_facts, print_json, print_table, say
from finery.errors import Fault, InputError
from finery.workspace.errors import NotFoundError

if TYPE_CHECKING:
    from finery.model.folder import ModelFolder

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _model() -> None:
    """Base models and the models of the workspace."""


@app.command("import")
def import_model(
    source: Annotated[
        str,
        typer.Argument(
            help="A model folder, an MLflow model, a .gguf file, package:NAME, a short name "
            "(smollm2-135m-instruct), or organisation/name on the hub."
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Also make a folder of its own here; must not exist yet."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make SOURCE a plain Hugging Face folder and say what it is."""
    from finery.model.sources import resolve_source

    # Some libraries report on the standard output, which belongs to our one answer.
    with contextlib.redirect_stdout(sys.stderr):
        typer.echo(f"Looking for {source} …", err=True)
        found = resolve_source(source)
        path = _copy(found, to) if to else found.path
    facts = _facts(found, path)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        typer.echo(f"{key.replace('_', ' '):<16} {_shown(key, value)}")
    say(f"Next: finery finetune --model {shlex.quote(str(to or source))} --train FILE --apply-lora")


Named = Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="A registered model.")]
Registry = Annotated[
    str, typer.Option("--registry", help=f"A registry, such as {REGISTRY}; else the workspace.")
]
NEWEST = {"$orderBy": "createdtime desc", "$top": 1}


@app.command("list")
def list_models(registry: Registry = "", as_json: AsJson = False) -> None:
    """List the models of the workspace, or of a registry, with their newest version."""
    service = connect()
    below = _below(service, registry)
    names = [one["name"] for one in service.items("models", below=below)]
    found = [_version(service, name, "", below) for name in names]
    if as_json:
        print_json(found)
        return
    none = "There are no models. `finery model register` makes one."
    print_table(("name", "version", "type", "created"), [_row(one) for one in found], none)


@app.command()
def show(name: Named, registry: Registry = "", as_json: AsJson = False) -> None:
    """Show a registered model."""
    service = connect()
    found = _find(service, name, registry)
    if as_json:
        print_json(found)
        return
    about = found["properties"]
    facts = dict(zip(("name", "version", "type", "created"), _row(found), strict=True))
    facts |= {"path": about.get("modelUri"), "description": about.get("description")}
    print_facts(facts | {"tags": about.get("tags"), "id": found["id"]})


@app.command()
def register(
    name: Annotated[str, typer.Argument(help="The name of the model.")],
    path: Annotated[
        Path | None, typer.Option(help="A folder or file of this machine.", exists=True)
    ] = None,
    job: Annotated[str, typer.Option(help="A job that left the model, instead.")] = "",
    output: Annotated[str, typer.Option(help="Which output of the job.")] = "trained_model",
    version: Annotated[str, typer.Option(help="A version; else the next number.")] = "",
    kind: Annotated[
        str, typer.Option("--type", help="mlflow_model or custom_model.")
    ] = "mlflow_model",
    description: Annotated[str, typer.Option(help="What it is.")] = "",
    as_json: AsJson = False,
) -> None:
    """Give a model a name and a version, so that endpoints and jobs can use it."""
    from finery.cli.job_files import upload

    if (path is None) == (not job):
        raise InputError([Fault("register", "both or neither", "--path or --job")])
    if kind not in ("mlflow_model", "custom_model"):
        raise InputError([Fault("--type", repr(kind), "mlflow_model or custom_model")])
    service = connect()
    uri = upload(service, path.resolve()) if path else f"azureml://jobs/{job}/outputs/{output}"
    if not version:
        known = service.find("models", name)
        version = str((known or {}).get("properties", {}).get("nextVersion") or 1)
    about = {"modelType": kind, "modelUri": uri, "description": description}
    made = service.ask("PUT", "models", name, "versions", version, body={"properties": about})
    if as_json:
        print_json(made.json())
    else:
        print_facts({"name": name, "version": version, "type": kind, "path": uri})
        say(f"Next: finery deploy {name}:{version} --endpoint NAME")


@app.command()
def lineage(name: Named, as_json: AsJson = False) -> None:
    """Say which job, base model, data and recipe a registered model comes from."""
    found = _find(connect(), name, "")["properties"].get("properties") or {}
    facts = {key: _unpacked(value) for key, value in found.items()}
    if as_json:
        print_json(facts)
    elif facts:
        _print_tree(facts, "")
    else:
        typer.echo("Nothing is known about where it comes from.")


def model_id(service: Service, text: str) -> str:
    """The id of a model said as NAME, NAME:VERSION, NAME@latest or as an id already."""
    if text.startswith("/") or "://" in text:
        return text
    return _find(service, text.removeprefix("azureml:").removesuffix("@latest"), "")["id"]


def _find(service: Service, text: str, registry: str) -> dict[str, Any]:
    name, _, version = text.partition(":")
    return _version(service, name, version, _below(service, registry))


def _below(service: Service, registry: str) -> str:
    return service.registry(registry) if registry else ""


def _version(service: Service, name: str, version: str, below: str) -> dict[str, Any]:
    if version:
        return service.get("models", name, "versions", version, below=below)
    found = service.get("models", name, "versions", below=below, **NEWEST)["value"]
    if not found:
        raise NotFoundError(f"No model is called {name}. `finery model list` lists them.")
    return found[0]


def _row(model: dict[str, Any]) -> tuple[Any, ...]:
    name = model["id"].split("/versions/")[0].rpartition("/")[2]
    created = moment((model.get("systemData") or {}).get("createdAt"))
    return name, model["name"], model["properties"].get("modelType"), created


def _unpacked(value: Any) -> Any:
    """A property as it was before it became text."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


def _print_tree(value: Any, indent: str) -> None:
    from finery.evaluation.markup import plain

    entries = value.items() if isinstance(value, dict) else enumerate(value, 1)
    for name, one in entries:
        if isinstance(one, dict | list) and one:
            typer.echo(plain(f"{indent}{name}"))
            _print_tree(one, indent + "  ")
        elif one not in ("", None, {}, []):
            typer.echo(plain(f"{indent}{name}: {one}"))


def _copy(found: ModelFolder, to: Path) -> Path:
    """The model as a folder of its own; its weights are linked where the disk allows."""
    from finery.files import new_folder
    from finery.model.folder import PAPERS, assemble, model_files

    final = to.expanduser().resolve()
    papers = [path for path in found.path.iterdir() if path.name in PAPERS]
    with new_folder(final) as temporary:
        assemble({path.name: path for path in [*papers, *model_files(found.path)]}, temporary)
    return final


def _facts(found: ModelFolder, path: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from finery.model.describe import describe_folder

    facts = {"path": str(path), "source": found.source, "kind": found.kind}
    return facts | asdict(describe_folder(path)) | {"sha256": found.sha256}


def _shown(key: str, value: Any) -> str:
    if key == "parameters":
        return f"{value:,} ({value / 1e6:,.1f} million)"
    if key == "bytes":
        return f"{value:,} ({value / 2**20:,.0f} MiB)"
    if key == "context":
        return f"{value:,} tokens" if value else "not said"
    return str(value) or "not said"

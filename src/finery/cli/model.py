"""`finery model`: find a base model and put it where training can use it."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from finery.model.folder import ModelFolder

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _model() -> None:
    """Base models: find and import them."""


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

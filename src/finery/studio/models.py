"""Models: names, versions, where they come from, what they are made of, how to deploy them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from finery.errors import Fault, FineryError, InputError
from finery.files import files_below
from finery.jobs import service
from finery.studio import layout, results
from finery.studio.layout import workspace_of
from finery.workspace import assets, references
from finery.workspace.asset import Asset
from finery.workspace.catalogue.shipped import source_of
from finery.workspace.errors import NotFoundError
from finery.workspace.place import Workspace

MOST_FILES = 200


def listing(request: Request, registry: str = "", q: str = "") -> Response:
    """Every model of the workspace, or of a registry."""
    workspace = workspace_of(request)
    check_registry(workspace, registry)
    names = assets.names(workspace, "model", registry)
    words = q.strip().lower()
    return layout.page(
        request,
        "assets.html",
        title="Models",
        active="models",
        kind="model",
        place="models",
        names=[name for name in names if words in name.name.lower()],
        registry=registry,
        registries=workspace.settings.registries,
        q=q,
    )


def check_registry(workspace: Workspace, registry: str) -> None:
    """Raise NotFoundError for a registry that is not configured."""
    if registry and registry not in workspace.settings.registries:
        known = ", ".join(workspace.settings.registries)
        raise NotFoundError(f"No registry is called {registry}. There is: {known}.")


def page(request: Request, name: str, version: str = "", registry: str = "") -> Response:
    """One version of a model beside the others."""
    workspace = workspace_of(request)
    check_registry(workspace, registry)
    model = assets.get(workspace, "model", registry, name, version or "latest")
    files, total, fault = files_of(workspace, model)
    return layout.page(
        request,
        "model.html",
        title=name,
        active="models",
        model=model,
        versions=assets.versions(workspace, "model", registry, name, limit=100),
        files=files,
        file_count=total,
        fault=fault,
        result=_result(workspace, model),
        lineage=lineage_of(model),
        link_of=results.link_of,
        words=_words(model),
        reference=references.asset_uri(model),
    )


def files_of(workspace: Workspace, asset: Asset) -> tuple[list[tuple[str, int]], int, str]:
    """The first files of an asset with their sizes, how many there are, and why there are none."""
    if source := source_of(asset):
        return [], 0, f"Its files come from {source}: they are fetched when a job first uses it."
    if not asset.path:
        return [], 0, "It has no files."
    try:
        path = folder_of(workspace, asset)
    except FineryError as error:
        return [], 0, str(error)
    every = [path] if path.is_file() else files_below(path)
    root = path.parent if path.is_file() else path
    shown = [(one.relative_to(root).as_posix(), one.stat().st_size) for one in every[:MOST_FILES]]
    return shown, len(every), "" if every else "Its files are not there any more."


def folder_of(workspace: Workspace, asset: Asset) -> Path:
    """Where the files of an asset lie; raises FineryError when that is nowhere in the workspace."""
    reference = references.parse(asset.path)
    if isinstance(reference, references.AssetVersion):
        raise InputError([Fault("path", asset.path, "files, not another asset")])
    return references.locate(workspace, reference, "path")


def _result(workspace: Workspace, model: Asset) -> results.Result | None:
    """The evaluation of the job that made a model; None when no such job is known."""
    job = str(model.spec.get("jobName") or "")
    if not job:
        return None
    try:
        made_by = service.get(workspace, job)
    except NotFoundError:
        return None
    steps = service.find(workspace, parent=job, archived="all")[0]
    return replace(results.of_job(workspace, made_by, steps or [made_by]), models=())


def lineage_of(model: Asset) -> dict[str, Any]:
    """Where a model comes from, as its properties say: texts, some of them JSON."""
    found = {}
    for key in ("job", "base_model", "data", "recipe"):
        text = model.properties.get(key, "")
        try:
            found[key] = json.loads(text) if text[:1] in ("{", "[") else text
        except ValueError:
            found[key] = text
    base, data, recipe = found["base_model"], found["data"], found["recipe"]
    return {
        "job": str(found["job"] or model.spec.get("jobName") or ""),
        "base_model": base if isinstance(base, Mapping) else {},
        "data": [one for one in data if isinstance(one, Mapping)] if isinstance(data, list) else [],
        "recipe": recipe if isinstance(recipe, Mapping) else {},
    }


def _words(model: Asset) -> list[tuple[str, str]]:
    named = shlex.quote(f"{model.name}:{model.version}")
    endpoint = "".join(c if c.isalnum() else "-" for c in model.name.lower()).strip("-")[:28]
    endpoint = endpoint if endpoint[:1].isalpha() else f"chat-{endpoint}"
    if model.registry:
        return []
    return [
        ("Put it behind an endpoint", f"finery deploy {named} --endpoint {endpoint}"),
        ("Talk to it there", f"finery chat --endpoint {endpoint}"),
        ("See where it comes from", f"finery model lineage {named}"),
    ]

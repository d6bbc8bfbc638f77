"""What registering adds to an asset: that its files are there, its flavors, where it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from finery.errors import Fault, InputError
from finery.jobs.lineage import lineage
from finery.workspace import datastores, references
from finery.workspace.asset import Asset
from finery.workspace.errors import NotFoundError
from finery.workspace.place import Workspace
from finery.workspace.references import AssetVersion, DatastorePath

FLAVOR_TEXT = 2**20  # bytes; an MLmodel file is never this long


def completed(workspace: Workspace, asset: Asset) -> Asset:
    """A new version with what can be known of it; raises when its files are not there.

    Data may be registered before its files exist, as in Azure ML; models and code may not.
    """
    if asset.kind not in ("model", "code", "data"):
        return asset
    reference = references.parse(asset.path, "path")
    if isinstance(reference, AssetVersion):
        raise InputError([Fault("path", asset.path, "files, not another asset")])
    path = references.locate(workspace, reference, "path")
    if asset.kind == "data":
        return asset
    if not path.exists():
        raise NotFoundError(f"There are no files at {asset.path}, so no {asset.kind} can be made.")
    if asset.kind == "code":
        return asset
    asset = _with_flavors(asset, path)
    job = _job_of(reference)
    return _with_lineage(workspace, asset, job) if job else asset


def _with_flavors(asset: Asset, path: Path) -> Asset:
    """The flavors that an MLflow model declares; refuses one that is no MLflow model."""
    if asset.type != "mlflow_model":
        return asset
    file = path / "MLmodel"
    if not file.is_file():
        expected = "a folder with a file MLmodel"
        remedy = "Register a model folder of Hugging Face as custom_model."
        raise InputError([Fault("modelUri", asset.path, expected, remedy)])
    if asset.spec.get("flavors") or file.stat().st_size > FLAVOR_TEXT:
        return asset
    try:
        declared = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError([Fault(f"{asset.path}/MLmodel", "no YAML", "YAML", str(error))]) from None
    flavors = declared.get("flavors") if isinstance(declared, Mapping) else None
    if not isinstance(flavors, Mapping):
        raise InputError([Fault(f"{asset.path}/MLmodel", "no flavors", "flavors of the model")])
    wire = {str(name): {"data": _texts(flavor)} for name, flavor in flavors.items()}
    return replace(asset, spec={**asset.spec, "flavors": wire})


def _texts(flavor: Any) -> dict[str, str]:
    """A flavor's settings as the wire holds them: text."""
    if not isinstance(flavor, Mapping):
        return {}
    return {
        str(key): value if isinstance(value, str) else json.dumps(value, default=str)
        for key, value in flavor.items()
    }


def _job_of(reference: references.Reference) -> str:
    """The job whose output a reference names, "" when it names something else."""
    if not isinstance(reference, DatastorePath) or reference.datastore != datastores.DEFAULT:
        return ""
    folder, _, rest = reference.path.partition("/")
    return rest.partition("/")[0] if folder == "azureml" else ""


def _with_lineage(workspace: Workspace, asset: Asset, job: str) -> Asset:
    """What the job knows of the model: base, data, recipe, packages; the caller's words win."""
    try:
        found = lineage(workspace, job)
    except NotFoundError:  # a folder that somebody made where the outputs of jobs lie
        return asset
    known = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in found.items()
    }
    properties = {**known, **asset.properties}
    return replace(asset, properties=properties, spec={**asset.spec, "jobName": job})

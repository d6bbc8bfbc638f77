"""What registering adds to an asset: that its files are there, its flavors, where it came from."""

from __future__ import annotations

import json
from dataclasses import replace

from finery.errors import Fault, InputError
from finery.jobs.lineage import lineage
from finery.workspace import datastores, references
from finery.workspace.asset import Asset
from finery.workspace.errors import NotFoundError
from finery.workspace.flavors import with_flavors
from finery.workspace.place import Workspace
from finery.workspace.references import AssetVersion, DatastorePath
from finery.workspace.tracking_models import bring_from_run, files_of_run


def completed(workspace: Workspace, asset: Asset) -> Asset:
    """A new version with what can be known of it; raises when its files are not there.

    Data may be registered before its files exist, as in Azure ML; models and code may not.
    """
    build = asset.spec.get("build") if asset.kind == "environment" else None
    place = build["contextUri"] if build else asset.path
    if asset.kind not in ("model", "code", "data") and not build:
        return asset
    reference = references.parse(place, "path")
    if isinstance(reference, AssetVersion):
        raise InputError([Fault("path", place, "files, not another asset")])
    path = references.locate(workspace, reference, "path")
    run = ""
    if asset.kind == "model" and isinstance(reference, DatastorePath):
        run = bring_from_run(workspace, reference.path, path)
    if asset.kind in ("data", "environment"):
        return asset
    if not path.exists():
        raise NotFoundError(f"There are no files at {asset.path}, so no {asset.kind} can be made.")
    if asset.kind == "code":
        return asset
    asset = with_flavors(asset, path)
    job = run or _job_of(reference)
    return with_origin(workspace, asset, job) if job else asset


def _job_of(reference: references.Reference) -> str:
    """The job whose output a reference names, "" when it names something else."""
    if not isinstance(reference, DatastorePath) or reference.datastore != datastores.DEFAULT:
        return ""
    folder, _, rest = reference.path.partition("/")
    return rest.partition("/")[0] if folder == "azureml" else ""


def with_origin(workspace: Workspace, asset: Asset, run: str) -> Asset:
    """What the job of a run knows of the model: base, data, recipe, packages; the caller's words
    win. Of a run that is no job's, and of a folder that somebody made where the outputs of jobs
    lie, the name is all there is to say.
    """
    try:
        found = lineage(workspace, run)
    except NotFoundError:
        is_logged = files_of_run(workspace, run, "") is not None
        return replace(asset, spec={**asset.spec, "jobName": run}) if is_logged else asset
    known = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in found.items()
    }
    properties = {**known, **asset.properties}
    return replace(asset, properties=properties, spec={**asset.spec, "jobName": found["job"]})

"""Outputs that become models or data assets when the step that writes them completes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finery.jobs import rows
from finery.jobs.job import COMPLETED, Job
from finery.jobs.lineage import lineage
from finery.jobs.spec import Output
from finery.workspace import assets
from finery.workspace.asset import MODEL_TYPES, Asset, next_version
from finery.workspace.errors import ConflictError, NotFoundError
from finery.workspace.flavors import MLMODEL, with_flavors
from finery.workspace.place import Workspace
from finery.workspace.references import canonical

_TRIES = 5  # at a version number that another job may take first


def register_outputs(
    workspace: Workspace, name: str, written: Mapping[str, Any] | None = None
) -> None:
    """Register the outputs of a step that have a name; what is registered already stays so.

    `written` says where its outputs lie when its row does not yet. Raises ConflictError when
    the asked version is there with other files, and InputError for a name that is none.
    """
    with workspace.store.read() as connection:
        job = rows.read(connection, name)
    for output, asked in job.step.outputs.items():
        if asked.name:
            _register(workspace, job, asked, (written or job.outputs)[output])


def register_model(workspace: Workspace, name: str, output: str, model: str) -> None:
    """Make an output of a completed job a version of `model`; one that it is already stays so.

    Raises NotFoundError for an output that the job has not, ConflictError while it is not
    complete, InputError for a name that is none.
    """
    with workspace.store.read() as connection:
        job = rows.read(connection, name)
    place = job.outputs.get(output)
    if place is None:
        known = ", ".join(job.outputs) or "none"
        raise NotFoundError(f"Job {name} has no output called {output}. There is: {known}.")
    if job.status != COMPLETED:
        raise ConflictError(f"Job {name} is {job.status}. A model is made of what it completed.")
    kind = place["type"] if place["type"] in MODEL_TYPES else "custom_model"
    _register(workspace, job, Output(kind, name=model), place)


def registered_kind(output: Output) -> str:
    """As what an output with a name is registered."""
    return "model" if output.type in MODEL_TYPES else "data"


def _register(workspace: Workspace, job: Job, asked: Output, place: Mapping[str, str]) -> None:
    path = canonical(place["uri"])
    kind = registered_kind(asked)
    for tries_left in reversed(range(_TRIES)):
        there = assets.versions(workspace, kind, "", asked.name, archived="all")
        if not asked.version and any(asset.path == path for asset in there):
            return  # by this step, before the service was killed
        asset = Asset(
            kind=kind,
            registry="",
            name=asked.name,
            version=asked.version or next_version([asset.version for asset in there]),
            type=asked.type,
            path=path,
            properties=_origin(workspace, job) if kind == "model" else {},
            spec={"jobName": job.root},
        )
        folder = Path(place["path"])
        if (folder / MLMODEL).is_file():
            asset = with_flavors(asset, folder)
        try:
            assets.put(workspace, asset)
            return
        except ConflictError:
            if asked.version or not tries_left:
                raise


def _origin(workspace: Workspace, job: Job) -> dict[str, str]:
    """Where a model comes from, as text."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in lineage(workspace, job.name).items()
    }

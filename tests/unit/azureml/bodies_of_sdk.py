"""Bodies that the SDK sends, a workspace that holds what they name, and the jobs they make."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from finery.azureml.job_bodies import job_spec
from finery.errors import Fault, InputError
from finery.jobs.spec import JobSpec, StepSpec
from finery.workspace import assets, computes
from finery.workspace.asset import Asset
from finery.workspace.computes import Compute
from finery.workspace.place import BLOB_CONTAINER, Workspace
from finery.workspace.settings import Settings
from finery.workspace.store import connect, metadata

BODIES = Path(__file__).parent / "bodies"
CHATS = "azureml://datastores/workspaceblobstore/paths/LocalUpload/h/chats"


def sent(name: str) -> dict[str, Any]:
    """What the SDK sends for a job of tests/service/sdk_bodies.py; a copy to be changed."""
    return json.loads((BODIES / f"{name}.json").read_text(encoding="utf-8"))


def workspace_in(folder: Path) -> Workspace:
    """A workspace with data, a code snapshot, an environment and a compute that the bodies name."""
    store = connect(f"sqlite:///{folder / 'finery.sqlite'}")
    metadata.create_all(store.engine)
    workspace = Workspace(folder, Settings(), store)
    uploads = workspace.blobs / BLOB_CONTAINER / "LocalUpload" / "h"
    (uploads / "chats").mkdir(parents=True)
    for file in (uploads / "chats.jsonl", uploads / "chats" / "a.jsonl"):
        file.write_text('{"messages": []}\n', encoding="utf-8")
    assets.put(workspace, Asset("data", "", "chats", "1", type="uri_folder", path=CHATS))
    assets.put(workspace, Asset("code", "", "snapshot", "1", path=CHATS))
    image = {"image": "python:3.11"}
    assets.put(workspace, Asset("environment", "", "sklearn", "1", spec=image))
    computes.create_or_update(workspace, Compute("cpu-cluster", "Standard_DS3_v2"))
    return workspace


def register(workspace: Workspace, components: dict[str, Any]) -> None:
    """Put components into the workspace, version 1 of each."""
    for name, spec in components.items():
        asset = Asset("component", "", name, "1", spec={"componentSpec": spec})
        assets.put(workspace, asset)


def job_of(workspace: Workspace, name: str, **changes: Any) -> JobSpec:
    """The job that a body asks for, its properties changed; None takes one out."""
    whole = sent(name)
    register(workspace, whole["components"])
    properties = copy.deepcopy(whole["body"]["properties"])
    properties |= changes
    kept = {key: value for key, value in properties.items() if value is not None}
    return job_spec(workspace, whole["name"], {"properties": kept})


def faults_of(workspace: Workspace, name: str, **changes: Any) -> dict[str, Fault]:
    """What is refused of a changed body, by place."""
    try:
        job_of(workspace, name, **changes)
    except InputError as error:
        return {fault.where: fault for fault in error.faults}
    raise AssertionError("nothing was refused")


def steps_of(job: JobSpec) -> dict[str, StepSpec]:
    """The steps of a job by path."""
    return {step.path: step for step in job.steps}

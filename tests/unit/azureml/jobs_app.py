"""The doors of jobs and runs without a service, over jobs that stand in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from finery.azureml import errors, jobs, runs
from finery.azureml.scope import ArmPaths
from finery.jobs import rows
from finery.jobs.job import child_name
from finery.jobs.spec import JobSpec, Output, StepOutput, StepSpec, job_to_json, step_to_json
from finery.workspace.place import Workspace

ARM = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
JOBS = f"{ARM}/jobs"
RUNS = f"/history/v1.0{ARM}/runs"


def client_of(workspace: Workspace) -> TestClient:
    """A client of the two doors."""
    app = FastAPI()
    app.state.workspace = workspace
    errors.install(app)
    for door in (runs, jobs):
        app.include_router(door.router)
    app.add_middleware(ArmPaths)
    return TestClient(app, raise_server_exceptions=False)


def put_job(workspace: Workspace, name: str, status: str = "Completed", **values: Any) -> None:
    """A pipeline of one step, "train", as the store has it."""
    step = StepSpec("train", command="true", outputs={"model": Output("mlflow_model")})
    wire = {"jobType": "Pipeline", "jobs": {"train": {}}, "outputs": {"model": None}}
    outputs = {"model": StepOutput("train", "model")}
    spec = JobSpec(name, "pipeline", (step,), outputs=outputs, wire=wire)
    written = {
        "model": {
            "type": "mlflow_model",
            "uri": f"azureml://datastores/workspaceblobstore/paths/azureml/{name}/model",
            "path": str(workspace.job_outputs(name) / "model"),
        }
    }
    shared = {"root": name, "experiment": "tests", "description": "", "tags": {"k": "v"}}
    shared |= {"properties": {}, "compute": "", "status": status, "outputs": written}
    root = {"name": name, "type": "pipeline", "parent": "", "step_path": ""}
    root |= {"display_name": "Shown", "spec": job_to_json(spec)}
    child = {"name": child_name(name, "train"), "type": "command", "parent": name}
    child |= {"step_path": "train", "display_name": "Train", "spec": step_to_json(step)}
    with workspace.store.write() as connection:
        rows.insert(connection, [shared | root | values, shared | child])


def write_log(workspace: Workspace, job: str, name: str, text: bytes) -> Path:
    """A log file of a job."""
    path = workspace.blobs / "azureml" / "ExperimentRun" / f"dcid.{job}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)
    return path

"""A workspace as a value: its settings, its store, and where each kind of file lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finery.workspace.settings import Settings
from finery.workspace.store import Store

BLOB_CONTAINER = "azureml-blobstore"  # of the datastore workspaceblobstore
ARTIFACT_CONTAINER = "azureml"  # of the datastore workspaceartifactstore


@dataclass(frozen=True)
class Workspace:
    """Everything the service's parts share. Handlers get it as `request.app.state.workspace`."""

    folder: Path  # the service's folder
    settings: Settings
    store: Store

    @property
    def secrets(self) -> Path:
        """Keys, readable by the owner alone."""
        return self.folder / "secrets"

    @property
    def certificates(self) -> Path:
        """The service's authority, its certificate, and the bundle that clients trust."""
        return self.folder / "certificates"

    @property
    def blobs(self) -> Path:
        """One folder a container; a blob is a plain file that steps open by path."""
        return self.folder / "blobs"

    @property
    def jobs(self) -> Path:
        """One folder a job, in it one a step, in it one an attempt."""
        return self.folder / "jobs"

    @property
    def replicas(self) -> Path:
        """One folder a replica of a deployment."""
        return self.folder / "replicas"

    @property
    def tracking(self) -> Path:
        """MLflow's database and artifacts."""
        return self.folder / "mlflow"

    @property
    def logs(self) -> Path:
        """What the service and the servers it starts say."""
        return self.folder / "logs"

    def job_outputs(self, job: str) -> Path:
        """Where the outputs of a job lie: `azureml/<job>/<output>` of the default datastore."""
        return self.blobs / BLOB_CONTAINER / "azureml" / job

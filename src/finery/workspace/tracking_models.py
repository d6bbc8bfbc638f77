"""Models in MLflow: what runs logged, what was registered there, and where their files lie."""

from __future__ import annotations

import functools
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from finery.errors import first_line
from finery.files import TEMPORARY, copy_tree
from finery.workspace.errors import UnavailableError
from finery.workspace.paths import inside
from finery.workspace.place import Workspace
from finery.workspace.references import BROUGHT
from finery.workspace.tracking_server import TrackingServer

TAKEN = "finery.model"  # the tag of a version in MLflow that says what became of it here
_UNTAKEN = sa.text(
    "SELECT v.name, v.version, v.source, v.storage_location, v.run_id, v.description, "
    "v.creation_time FROM model_versions v LEFT JOIN model_version_tags t "
    "ON t.name = v.name AND t.version = v.version AND t.key = :tag "
    "WHERE t.key IS NULL AND v.current_stage <> 'Deleted_Internal' ORDER BY v.creation_time"
)
_LOGGED = sa.text(
    "SELECT artifact_location FROM logged_models WHERE source_run_id = :run AND name = :name "
    "ORDER BY creation_timestamp_ms DESC"
)


@dataclass(frozen=True)
class Registered:
    """A model version that was registered with MLflow's own API."""

    name: str
    version: str
    address: str  # of its files, as MLflow writes it
    run: str  # "" when it comes from none
    description: str
    created: int  # milliseconds since 1970


def untaken(workspace: Workspace) -> list[Registered]:
    """The versions in MLflow that nobody has looked at here yet, the oldest first."""
    rows = read_rows(workspace, "model_versions", _UNTAKEN, {"tag": TAKEN})
    return [
        Registered(
            row.name,
            str(row.version),
            row.storage_location or row.source or "",
            row.run_id or "",
            row.description or "",
            row.creation_time,
        )
        for row in rows
    ]


def mark_taken(workspace: Workspace, model: Registered, became: str) -> None:
    """Say in MLflow what became of a version here; raises UnavailableError when it is not up."""
    said = {"name": model.name, "version": model.version, "key": TAKEN, "value": became[:5000]}
    try:
        with TrackingServer(workspace).client as client:
            answer = client.post("/api/2.0/mlflow/model-versions/set-tag", json=said)
    except httpx.TransportError as error:
        raise UnavailableError(f"MLflow does not answer: {first_line(error)}.") from error
    if answer.is_error:
        raise UnavailableError(f"MLflow answered {answer.status_code}: {answer.text[:200]}")


def files_at(workspace: Workspace, address: str) -> Path | None:
    """Where the files of an `mlflow-artifacts:` address lie; None for any other address."""
    parts = urlsplit(address)
    if parts.scheme != "mlflow-artifacts":
        return None
    path = unquote(parts.path).lstrip("/").removeprefix("api/2.0/mlflow-artifacts/artifacts/")
    return inside(workspace.tracking / "artifacts", path, "source")


def files_of_run(workspace: Workspace, run: str, path: str) -> Path | None:
    """What a run logged at `path`, an artifact or a model by its name; None when it did not."""
    root = workspace.tracking / "artifacts"
    for experiment in sorted(root.glob("*/")):
        folder = experiment / run / "artifacts"
        if (found := inside(folder, path, "path") if path else folder).exists():
            return found
    name, _, rest = path.partition("/")
    for row in read_rows(workspace, "logged_models", _LOGGED, {"run": run, "name": name}):
        folder = files_at(workspace, row.artifact_location)
        if folder is not None and (found := inside(folder, rest, "path")).exists():
            return found
    return None


def bring(workspace: Workspace, place: Path, source: Path) -> None:
    """Put a copy of `source` at `place`, whole or not at all: MLflow may write its own again."""
    if place.exists():
        return
    workspace.jobs.mkdir(parents=True, exist_ok=True)
    made = workspace.jobs / f"{TEMPORARY}{uuid.uuid4().hex}"
    copy_tree(source, made)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.rename(place)
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
        if not place.exists():  # else another request was first
            raise


def bring_from_run(workspace: Workspace, datastore_path: str, place: Path) -> str:
    """Fetch what a path of a datastore says a run logged, unless it is there.

    The paths are those of `runs:/RUN/PATH` (references.BROUGHT) and of the artifacts of a job. The
    run; "" when the path is of another kind, or the run logged nothing there.
    """
    match datastore_path.split("/"):
        case ["azureml", run, word, *rest] if word == BROUGHT and run:
            pass
        case ["ExperimentRun", folder, *rest] if folder.startswith("dcid."):
            run = folder.removeprefix("dcid.")
        case _:
            return ""
    if not place.exists():
        source = files_of_run(workspace, run, "/".join(rest).rstrip("/"))
        if source is None:
            return ""
        bring(workspace, place, source)
    return run


def read_rows(
    workspace: Workspace, table: str, query: sa.TextClause, values: Mapping[str, Any] | None = None
) -> list[sa.Row[Any]]:
    """What MLflow's database answers; nothing while it has no such table."""
    url = TrackingServer(workspace).database
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return []
    engine = _engine(url)
    try:
        if not sa.inspect(engine).has_table(table):
            return []
        with engine.connect() as connection:
            return list(connection.execute(query, values or {}))
    except OperationalError as error:
        text = f"MLflow's database does not answer: {first_line(error)}."
        raise UnavailableError(text) from error


@functools.lru_cache(maxsize=4)
def _engine(url: sa.URL) -> sa.Engine:
    return sa.create_engine(url, poolclass=sa.NullPool)

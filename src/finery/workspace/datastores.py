"""Datastores: names for places that hold files.

The workspace's own are containers in the service's folder. One that a person registers keeps
what was said of it; its files are readable when it points at one of our containers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from finery.errors import Fault, InputError, did_you_mean
from finery.files import read_json
from finery.workspace.errors import ForbiddenError, NotFoundError
from finery.workspace.place import ARTIFACT_CONTAINER, BLOB_CONTAINER, Workspace
from finery.workspace.secrets import write_private
from finery.workspace.store import now
from finery.workspace.tables import datastores

BLOB, FILE = "AzureBlob", "AzureFile"
TYPES = (BLOB, FILE, "AzureDataLakeGen1", "AzureDataLakeGen2", "OneLake", "Hdfs")
DEFAULT = "workspaceblobstore"
ARTIFACTS = "workspaceartifactstore"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,254}")


@dataclass(frozen=True)
class Datastore:
    """A place that holds files."""

    name: str
    type: str
    container: str = ""  # our container; "" when its files are not on this machine
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    wire: Mapping[str, Any] = field(default_factory=dict)
    is_default: bool = False
    created_at: datetime = field(default_factory=now)


_OWN = (
    Datastore(DEFAULT, BLOB, BLOB_CONTAINER, "Uploads and the outputs of jobs."),
    Datastore(ARTIFACTS, BLOB, ARTIFACT_CONTAINER, "Logs and artifacts of jobs."),
    Datastore("workspacefilestore", FILE, "azureml-filestore", "Files shared by hand."),
    Datastore("workspaceworkingdirectory", FILE, "code-filestore", "Notebooks and scripts."),
)
_FIELDS = [field.name for field in fields(Datastore)]


def all_datastores(workspace: Workspace) -> list[Datastore]:
    """Every datastore: the workspace's own, then the others by name."""
    query = sa.select(*(datastores.c[name] for name in _FIELDS)).order_by(datastores.c.name)
    with workspace.store.read() as connection:
        added = [Datastore(**row._mapping) for row in connection.execute(query)]
    chosen = next((store.name for store in added if store.is_default), DEFAULT)
    return [replace(store, is_default=store.name == chosen) for store in [*_OWN, *added]]


def get(workspace: Workspace, name: str) -> Datastore:
    """The datastore called `name`; raises NotFoundError."""
    every = all_datastores(workspace)
    found = next((store for store in every if store.name == name), None)
    if found is None:
        known = [store.name for store in every]
        guess = did_you_mean(name, known) or f"There are: {', '.join(known)}."
        raise NotFoundError(f"No datastore is called {name}. {guess}")
    return found


def put(
    workspace: Workspace, store: Datastore, secrets: Mapping[str, Any] | None = None
) -> Datastore:
    """Register or replace a datastore; `secrets` go to a file that only the owner reads."""
    faults = []
    if not _NAME.fullmatch(store.name):
        rule = "letters, digits, dashes and underscores"
        faults.append(Fault("datastore name", repr(store.name), rule))
    if store.type not in TYPES:
        faults.append(Fault("datastoreType", repr(store.type), f"one of {', '.join(TYPES)}"))
    if faults:
        raise InputError(faults)
    _check_not_own(store.name)
    if secrets:
        write_private(_secrets(workspace, store.name), _json(secrets))
    values = {**asdict(store), **{k: dict(getattr(store, k)) for k in ("tags", "properties")}}
    values["wire"] = dict(store.wire)
    with workspace.store.write() as connection:
        if store.is_default:
            connection.execute(datastores.update().values(is_default=False))
        this = datastores.c.name == store.name
        kept = {key: value for key, value in values.items() if key != "created_at"}
        if not connection.execute(datastores.update().where(this).values(kept)).rowcount:
            connection.execute(datastores.insert().values(values))
    return get(workspace, store.name)


def delete(workspace: Workspace, name: str) -> bool:
    """Forget a datastore that a person registered; says whether it was there."""
    _check_not_own(name)
    if not _NAME.fullmatch(name):
        return False
    with workspace.store.write() as connection:
        gone = connection.execute(datastores.delete().where(datastores.c.name == name)).rowcount
    _secrets(workspace, name).unlink(missing_ok=True)
    return gone > 0


def secrets_of(workspace: Workspace, name: str) -> dict[str, Any]:
    """What `put` was given as secrets; nothing for the workspace's own datastores."""
    path = _secrets(workspace, get(workspace, name).name)
    return dict(read_json(path)) if path.is_file() else {}


def is_own(name: str) -> bool:
    """Whether the datastore is one of the workspace's own."""
    return any(store.name == name for store in _OWN)


def container_of(workspace: Workspace, name: str) -> str:
    """The container that holds a datastore's files; raises InputError when it is elsewhere."""
    store = get(workspace, name)
    if not store.container:
        account = store.wire.get("accountName", "a service outside")
        fault = Fault(
            f"datastore {name}",
            f"files of {account}",
            "a container of this workspace",
            f"Upload the files to {DEFAULT}, or download them and name the local path.",
        )
        raise InputError([fault])
    return store.container


def _check_not_own(name: str) -> None:
    if is_own(name):
        raise ForbiddenError(f"{name} belongs to the workspace. Choose another name.")


def _secrets(workspace: Workspace, name: str) -> Path:
    return workspace.secrets / "datastores" / f"{name}.json"


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value))


def own_containers() -> frozenset[str]:
    """The containers of the workspace's own datastores: they are always there."""
    return frozenset(store.container for store in _OWN)

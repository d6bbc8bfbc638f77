"""Datastores and their secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from finery.azureml.scope import WORKSPACE, Target, TargetDep, WorkspaceDep, paged
from finery.azureml.wire import mapping, moment, text, texts
from finery.workspace import blobs, datastores
from finery.workspace.datastores import BLOB, FILE, Datastore
from finery.workspace.place import Workspace

router = APIRouter()
DATASTORES = WORKSPACE + "/datastores"
DATASTORE = DATASTORES + "/{name}"
SUFFIX = "local"  # of the storage addresses that the SDK makes: <account>.blob.local
# What lists secrets by kind of credential: the secretsType, and the name of the secret.
_SECRETS = {
    "AccountKey": ("AccountKey", "key"),
    "Sas": ("Sas", "sasToken"),
    "ServicePrincipal": ("ServicePrincipal", "clientSecret"),
    "Certificate": ("Certificate", "certificate"),
}
_OWN_FIELDS = ("datastoreType", "description", "tags", "properties", "isDefault", "credentials")


def account(workspace: Workspace) -> str:
    """The storage account whose address, as the SDK makes it, is this service."""
    return workspace.settings.base_url.removeprefix("https://") + "/_blob"


@router.get(DATASTORES)
def listed(
    target: TargetDep,
    workspace: WorkspaceDep,
    is_default: Annotated[bool | None, Query(alias="isDefault")] = None,
    names: Annotated[list[str] | None, Query()] = None,
) -> dict[str, Any]:
    """Every datastore, the default one alone, or some by name."""
    wanted = {name for text in names or () for name in text.split(",")}
    found = [
        store
        for store in datastores.all_datastores(workspace)
        if (is_default is None or store.is_default == is_default)
        and (not wanted or store.name in wanted)
    ]
    return paged([_body(workspace, target, store) for store in found])


@router.get(DATASTORE)
def show(name: str, target: TargetDep, workspace: WorkspaceDep) -> dict[str, Any]:
    """One datastore, without its secrets."""
    return _body(workspace, target, datastores.get(workspace, name))


@router.put(DATASTORE)
def create(
    name: str, body: dict[str, Any], target: TargetDep, workspace: WorkspaceDep
) -> dict[str, Any]:
    """Register or replace one."""
    sent = mapping(body, "properties")
    credentials = dict(mapping(sent, "credentials"))
    secrets = dict(mapping(credentials, "secrets"))
    credentials.pop("secrets", None)
    kind = text(sent, "datastoreType")
    is_ours = kind == BLOB and text(sent, "accountName") == account(workspace)
    container = text(sent, "containerName") if is_ours else ""
    if container:
        blobs.make_container(workspace, container)
    wire = {key: value for key, value in sent.items() if key not in _OWN_FIELDS}
    store = Datastore(
        name=name,
        type=kind,
        container=container,
        description=text(sent, "description"),
        tags=texts(sent, "tags"),
        properties=texts(sent, "properties"),
        wire={**wire, "credentials": credentials or {"credentialsType": "None"}},
        is_default=bool(sent.get("isDefault")),
    )
    return _body(workspace, target, datastores.put(workspace, store, secrets))


@router.delete(DATASTORE)
def delete(name: str, workspace: WorkspaceDep) -> Response:
    """Forget one; its files stay."""
    return Response(status_code=200 if datastores.delete(workspace, name) else 204)


@router.post(DATASTORE + "/listSecrets")
def list_secrets(name: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """The secrets that a datastore was registered with; our own datastores have none."""
    store = datastores.get(workspace, name)
    kind = text(mapping(store.wire, "credentials"), "credentialsType")
    secrets_type, _ = _SECRETS.get(kind, ("None", ""))
    return {**datastores.secrets_of(workspace, name), "secretsType": secrets_type}


def _body(workspace: Workspace, target: Target, store: Datastore) -> dict[str, Any]:
    place: Mapping[str, Any] = store.wire
    if datastores.is_own(store.name):
        container = "fileShareName" if store.type == FILE else "containerName"
        place = {
            "accountName": account(workspace),
            container: store.container,
            "endpoint": SUFFIX,
            "protocol": "https",
            "credentials": {"credentialsType": "None"},
            "serviceDataAccessAuthIdentity": "None",
        }
    return {
        "id": f"{target.arm}/datastores/{store.name}",
        "name": store.name,
        "type": "Microsoft.MachineLearningServices/workspaces/datastores",
        "properties": {
            "datastoreType": store.type,
            "description": store.description or None,
            "tags": dict(store.tags),
            "properties": dict(store.properties),
            "isDefault": store.is_default,
            **place,
        },
        "systemData": {"createdAt": moment(store.created_at), "createdByType": "User"},
    }

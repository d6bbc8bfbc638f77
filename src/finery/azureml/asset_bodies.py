"""Asset versions and names as they stand on the wire, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from finery.azureml.scope import PROVIDER, Target
from finery.azureml.wire import mapping, moment, text, texts
from finery.errors import Fault, InputError
from finery.workspace import references
from finery.workspace.asset import DATA_TYPES, MODEL_TYPES, OWN_SPEC, Asset, AssetName
from finery.workspace.place import Workspace
from finery.workspace.references import KINDS, BlobUrl, DatastorePath

ANONYMOUS = ("azureml_anonymous", "CliV2AnonymousEnvironment")
PLURALS = {kind: plural for plural, kind in KINDS.items()}
_SAID = ("description", "tags", "properties", "isAnonymous", "isArchived")
# By kind: the wire names of type and path.
_TYPE = {"model": "modelType", "data": "dataType"}
_PATH = {"model": "modelUri", "data": "dataUri", "code": "codeUri"}
_READ_ONLY = ("provisioningState", "environmentType")


def read_version(
    target: Target, kind: str, name: str, version: str, body: Mapping[str, Any]
) -> Asset:
    """The asset that a PUT describes."""
    sent = mapping(body, "properties")
    if body.get("properties") is None:
        raise InputError([Fault("properties", "nothing", f"the properties of the {kind}")])
    plain = Asset(
        kind=kind,
        registry=target.registry,
        name=name,
        version=version,
        description=text(sent, "description"),
        tags=texts(sent, "tags"),
        properties=texts(sent, "properties"),
        is_anonymous=bool(sent.get("isAnonymous")) or name in ANONYMOUS,
        is_archived=bool(sent.get("isArchived")),
    )
    used = {*_SAID, *_READ_ONLY, _TYPE.get(kind), _PATH.get(kind)}
    rest = {key: value for key, value in sent.items() if key not in used and value is not None}
    return _READERS[kind](replace(plain, spec=rest), sent)


def version_body(workspace: Workspace, target: Target, asset: Asset) -> dict[str, Any]:
    """A version as the SDK reads it; `name` is the version, the asset's name is in the id."""
    plural = PLURALS[asset.kind]
    properties: dict[str, Any] = {
        "description": asset.description or None,
        "tags": dict(asset.tags),
        "properties": dict(asset.properties),
        "isAnonymous": asset.is_anonymous,
        "isArchived": asset.is_archived,
        "provisioningState": "Succeeded",
        **{key: value for key, value in asset.spec.items() if key not in OWN_SPEC},
    }
    if asset.kind in _TYPE:
        properties[_TYPE[asset.kind]] = asset.type
    if asset.kind in _PATH:
        properties[_PATH[asset.kind]] = wire_path(workspace, target, asset.path)
    if asset.kind == "model":
        properties.setdefault("flavors", {})
    if asset.kind == "environment":
        if build := asset.spec.get("build"):
            context = wire_path(workspace, target, build["contextUri"])
            properties["build"] = {**build, "contextUri": context}
        properties["environmentType"] = "Curated" if asset.created_by == "finery" else "UserCreated"
    return {
        "id": target.version_id(plural, asset.name, asset.version),
        "name": asset.version,
        "type": f"{PROVIDER}/{_owner(target)}/{plural}/versions",
        "properties": properties,
        "systemData": {
            "createdAt": moment(asset.created_at),
            "createdBy": asset.created_by or "owner",
            "createdByType": "User",
            "lastModifiedAt": moment(asset.created_at),
        },
    }


def name_body(target: Target, name: AssetName) -> dict[str, Any]:
    """What the versions of a name share, as the SDK reads it."""
    plural = PLURALS[name.kind]
    return {
        "id": f"{target.arm}/{plural}/{name.name}",
        "name": name.name,
        "type": f"{PROVIDER}/{_owner(target)}/{plural}",
        "properties": {
            "description": name.description or None,
            "tags": dict(name.tags),
            "properties": dict(name.properties),
            "isArchived": name.is_archived,
            "latestVersion": name.latest_version or None,
            "nextVersion": name.next_version,
            "provisioningState": "Succeeded",
            **({"dataType": name.type} if name.kind == "data" else {}),
        },
        "systemData": {
            "createdAt": moment(name.created_at),
            "createdBy": "owner",
            "createdByType": "User",
            "lastModifiedAt": moment(name.created_at),
        },
    }


def wire_path(workspace: Workspace, target: Target, path: str) -> str:
    """The address of an asset's files in the form from which the SDK downloads them."""
    if not path:
        return path
    match references.parse(path):
        case DatastorePath(datastore, inner) if not target.registry:
            scope = f"subscriptions/{target.subscription}/resourcegroups/{target.resource_group}"
            scope += f"/workspaces/{target.workspace}"
            return f"azureml://{scope}/datastores/{datastore}/paths/{inner}"
        case BlobUrl(container, inner):
            root = "" if target.registry else "/_blob.blob.local"
            return f"{workspace.settings.base_url}{root}/{container}/{inner}"
        case _:
            return path


def _model(asset: Asset, sent: Mapping[str, Any]) -> Asset:
    kind = text(sent, "modelType") or "custom_model"
    _check_type("modelType", kind, MODEL_TYPES)
    path = references.canonical(_required(sent, "modelUri"), "modelUri")
    return replace(asset, type=kind, path=path)


def _data(asset: Asset, sent: Mapping[str, Any]) -> Asset:
    kind = text(sent, "dataType") or "uri_folder"
    _check_type("dataType", kind, DATA_TYPES)
    path = references.canonical(_required(sent, "dataUri"), "dataUri")
    spec = {key: value for key, value in asset.spec.items() if value != []}
    return replace(asset, type=kind, path=path, spec=spec)


def _component(asset: Asset, sent: Mapping[str, Any]) -> Asset:
    spec = mapping(sent, "componentSpec")
    if not spec:
        raise InputError([Fault("componentSpec", "nothing", "the component's YAML as a mapping")])
    # The hash that the SDK puts beside a spec tells it what it sent before; it is no content.
    # A spec may leave its version to the service; clients read it from the spec.
    whole = {**spec, "version": str(spec.get("version") or asset.version)}
    made = {**asset.spec, "componentSpec": whole}
    return replace(asset, type=str(spec.get("type", "")), spec=made)


def _environment(asset: Asset, sent: Mapping[str, Any]) -> Asset:
    faults = []
    if sent.get("image") and sent.get("build"):
        faults.append(Fault("image", "an image and a build", "one of the two"))
    if not sent.get("image") and not sent.get("build") and not sent.get("condaFile"):
        faults.append(Fault("properties", "no image, no build", "an image or a build context"))
    if faults:
        raise InputError(faults)
    build = mapping(sent, "build")
    if not build:
        return asset
    context = references.canonical(_required(build, "contextUri"), "build.contextUri")
    file = text(build, "dockerfilePath") or "Dockerfile"
    whole = {**build, "contextUri": context, "dockerfilePath": file}
    return replace(asset, spec={**asset.spec, "build": whole})


def _code(asset: Asset, sent: Mapping[str, Any]) -> Asset:
    path = references.canonical(_required(sent, "codeUri"), "codeUri")
    return replace(asset, path=path, content_hash=asset.properties.get("hash_sha256", ""))


_READERS: dict[str, Callable[[Asset, Mapping[str, Any]], Asset]] = {
    "model": _model,
    "data": _data,
    "component": _component,
    "environment": _environment,
    "code": _code,
}


def _required(sent: Mapping[str, Any], key: str) -> str:
    found = text(sent, key).strip()
    if not found:
        raise InputError([Fault(key, "nothing", "where the files are")])
    return found


def _check_type(key: str, found: str, known: tuple[str, ...]) -> None:
    if found not in known:
        raise InputError([Fault(key, repr(found), f"one of {', '.join(known)}")])


def _owner(target: Target) -> str:
    return "registries" if target.registry else "workspaces"

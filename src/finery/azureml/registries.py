"""What registries have beyond assets: places to upload to and download from, and sharing."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Response

from finery.azureml.blobs import ROOT
from finery.azureml.codes import TEMPORARY, reference_to, upload_place
from finery.azureml.scope import REGISTRY, TargetDep, WorkspaceDep
from finery.azureml.wire import mapping, text
from finery.errors import Fault, InputError
from finery.files import files_below
from finery.workspace import assets, blobs, references
from finery.workspace.asset import Asset
from finery.workspace.catalogue.shipped import source_of
from finery.workspace.errors import ConflictError, NotFoundError
from finery.workspace.place import Workspace
from finery.workspace.references import AssetVersion, BlobUrl
from finery.workspace.uploads import upload_container

router = APIRouter()
Sent = Annotated[dict[str, Any], Body()]


@router.put(REGISTRY + "/tempdatarefs/{name}/versions/{version}")
def temporary_reference(
    name: str, version: str, body: Sent, target: TargetDep, workspace: WorkspaceDep
) -> dict[str, Any]:
    """Where the files of a registry asset to come are uploaded."""
    named = _named(body, "assetId")
    if (named.name, named.version) != (name, version):
        raise InputError([Fault("assetId", text(body, "assetId"), f"{name}, version {version}")])
    place = upload_place(workspace, target, named.kind, name, version)
    kind = {"temporaryDataReferenceType": TEMPORARY}
    return {**place, **kind, "temporaryDataReferenceId": uuid.uuid4().hex}


@router.post(REGISTRY + "/datarefs/{name}/versions/{version}")
def data_reference(
    name: str, version: str, body: Sent, target: TargetDep, workspace: WorkspaceDep
) -> dict[str, Any]:
    """Where the files of a registry asset are downloaded from."""
    named = _named(body, "assetId")
    asset = assets.get(workspace, named.kind, target.registry, name, version)
    reference = references.parse(asset.path) if asset.path else None
    source = source_of(asset)
    if source or not isinstance(reference, BlobUrl):
        raise NotFoundError(
            f"The registry holds no files of {asset.words}. Its weights come from "
            f"{source or 'elsewhere'} when a job or a deployment needs them."
        )
    return reference_to(workspace, target, reference.container, writable=False)


@router.post(REGISTRY + "/import")
def import_asset(body: Sent, target: TargetDep, workspace: WorkspaceDep) -> Response:
    """Share an asset of the workspace with the registry; its files come along."""
    sent = mapping(body, "properties") or body
    named = _named(sent, "sourceAssetId")
    source = assets.get(workspace, named.kind, named.registry, named.name, named.version)
    name = text(sent, "destinationName") or source.name
    version = text(sent, "destinationVersion") or source.version
    if assets.find(workspace, source.kind, target.registry, name, version):
        raise ConflictError(f"{target.registry} has {name}, version {version}, already.")
    path = _copied(workspace, source, target.registry, name, version) if source.path else ""
    shared = Asset(
        kind=source.kind,
        registry=target.registry,
        name=name,
        version=version,
        type=source.type,
        path=path,
        description=source.description,
        tags=source.tags,
        properties=source.properties,
        spec=source.spec,
        content_hash=source.content_hash,
    )
    assets.put(workspace, shared)
    return Response(status_code=200)  # without a body the SDK reads the asset back by itself


def _named(body: Any, key: str) -> AssetVersion:
    reference = references.parse(text(body, key), key)
    if not isinstance(reference, AssetVersion) or not reference.kind:
        raise InputError([Fault(key, repr(text(body, key)), "the id of an asset version")])
    return reference


def _copied(workspace: Workspace, source: Asset, registry: str, name: str, version: str) -> str:
    """The address of the asset's files in a container of the registry's own."""
    found = references.resolve_input(workspace, references.asset_uri(source))
    if found.path is None:
        return source.path
    container = upload_container(source.kind, registry, name, version)
    blobs.make_container(workspace, container)
    root = blobs.container_path(workspace, container)
    _link_tree(workspace, found.path, root / found.path.name)
    return references.canonical(f"https://localhost{ROOT}/{container}/{found.path.name}")


def _link_tree(workspace: Workspace, source: Path, target: Path) -> None:
    """The same files under another name; links where possible: a blob's bytes never change."""
    files = [source] if source.is_file() else files_below(source)
    roots = (workspace.blobs.resolve(), workspace.jobs.resolve())
    if out := [f for f in files if not any(f.resolve().is_relative_to(root) for root in roots)]:
        expected = "files of the workspace alone"
        raise InputError(
            [Fault("sourceAssetId", f"a link that leads out, {out[0].name}", expected)]
        )
    for file in files:
        place = target if source.is_file() else target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            os.link(file.resolve(), place)
        except OSError:  # another file system
            shutil.copyfile(file, place)

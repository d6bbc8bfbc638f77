"""Pending uploads: a container of its own for the files of a version to come.

Code snapshots are uploaded this way, and whatever goes to a registry; the versions themselves
are served with the other assets.
"""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter

from finery.azureml.blobs import ROOT, signed_container
from finery.azureml.scope import REGISTRY, WORKSPACE, Target, TargetDep, WorkspaceDep
from finery.workspace import assets, blobs
from finery.workspace.asset import Asset, check_asset
from finery.workspace.errors import ConflictError, NotFoundError
from finery.workspace.place import Workspace
from finery.workspace.references import KINDS
from finery.workspace.uploads import upload_container

router = APIRouter()
TEMPORARY = "TemporaryBlobReference"
_UPLOAD = "/{plural}/{name}/versions/{version}/startPendingUpload"


@router.post(WORKSPACE + _UPLOAD)
@router.post(REGISTRY + _UPLOAD)
def pending_upload(
    plural: str, name: str, version: str, target: TargetDep, workspace: WorkspaceDep
) -> dict[str, Any]:
    """Where the files of an asset version to come are uploaded."""
    if plural not in KINDS:
        raise NotFoundError(f"Assets called {plural} have no files to upload.")
    place = upload_place(workspace, target, KINDS[plural], name, version)
    return {**place, "pendingUploadId": uuid.uuid4().hex, "pendingUploadType": TEMPORARY}


def upload_place(
    workspace: Workspace, target: Target, kind: str, name: str, version: str
) -> dict[str, Any]:
    """A container for the files of a version; raises ConflictError when the version is there.

    The files of a version never change, and the SDK goes on without an upload.
    """
    check_asset(Asset(kind, target.registry, name, version))
    if assets.find(workspace, kind, target.registry, name, version):
        raise ConflictError(f"The {kind} {name}, version {version}, exists already.")
    container = upload_container(kind, target.registry, name, version)
    blobs.make_container(workspace, container)
    return reference_to(workspace, target, container, writable=True)


def reference_to(
    workspace: Workspace, target: Target, container: str, *, writable: bool
) -> dict[str, Any]:
    """The address of a container, with a signature instead of a token."""
    return {
        "blobReferenceForConsumption": {
            "blobUri": f"{workspace.settings.base_url}{ROOT}/{container}",
            "storageAccountArmId": f"{target.arm}/storage",
            "credential": {
                "credentialType": "SAS",
                "sasUri": signed_container(workspace, container, writable=writable),
            },
        }
    }

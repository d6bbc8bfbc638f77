"""The workspace itself."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from finery.azureml.scope import RESOURCES, WORKSPACE, Target, TargetDep, WorkspaceDep, paged
from finery.workspace.place import Workspace

router = APIRouter()


@router.get(WORKSPACE)
def show(target: TargetDep, workspace: WorkspaceDep) -> dict[str, Any]:
    """The workspace under whatever name the caller uses for it."""
    return _body(target, workspace)


@router.get(RESOURCES + "/workspaces")
def of_group(sub: str, rg: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """The one workspace there is."""
    target = Target(sub, rg, workspace.settings.workspace_name)
    return paged([_body(target, workspace)])


@router.get("/subscriptions/{sub}/providers/Microsoft.MachineLearningServices/workspaces")
def of_subscription(sub: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """The same, asked for without a resource group."""
    settings = workspace.settings
    return paged([_body(Target(sub, settings.resource_group, settings.workspace_name), workspace)])


def _body(target: Target, workspace: Workspace) -> dict[str, Any]:
    settings = workspace.settings
    host = settings.base_url.removeprefix("https://")
    return {
        "id": target.arm,
        "name": target.workspace,
        "type": "Microsoft.MachineLearningServices/workspaces",
        "location": settings.location,
        "tags": {},
        "kind": "Default",
        "properties": {
            "friendlyName": target.workspace,
            "description": "",
            "provisioningState": "Succeeded",
            "publicNetworkAccess": "Disabled",
            "discoveryUrl": f"{settings.base_url}/discovery",
            "mlFlowTrackingUri": f"azureml://{host}/mlflow/v1.0{target.arm}",
        },
    }

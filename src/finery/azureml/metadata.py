"""Where the SDK finds this cloud: addresses, token audiences, registry discovery."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from finery.azureml.scope import WorkspaceDep
from finery.workspace import identity
from finery.workspace.errors import NotFoundError
from finery.workspace.settings import CLOUD

router = APIRouter()

# The SDK takes what follows the second dot for the suffix of its token audience.
PORTAL = "https://portal.azure.local"


@router.get("/healthz")
def health() -> dict[str, str]:
    """That the service answers."""
    return {"status": "ok"}


@router.get("/metadata/endpoints")
def clouds(workspace: WorkspaceDep) -> list[dict[str, Any]]:
    """The one cloud there is."""
    base = workspace.settings.base_url
    return [
        {
            "name": CLOUD,
            "portal": PORTAL,
            "resourceManager": f"{base}/",
            "authentication": {
                # Without a port: azure-identity takes "name:port" for a scheme and a path.
                "loginEndpoint": "https://localhost/",
                "audiences": [base, identity.MANAGEMENT],
                "tenant": CLOUD,
            },
            "suffixes": {"storage": "local"},
        }
    ]


@router.get("/discovery")
def data_planes(workspace: WorkspaceDep) -> dict[str, str]:
    """The base of run history and its neighbours."""
    return {"api": workspace.settings.base_url}


@router.get("/registrymanagement/v1.0/registries/{reg}/discovery")
def registry(reg: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Where a registry is served."""
    settings = workspace.settings
    if reg not in settings.registries:
        known = ", ".join(settings.registries)
        raise NotFoundError(f"No registry is called {reg}. There is: {known}.")
    return {
        "registryName": reg,
        "primaryRegionResourceProviderUri": f"{settings.base_url}/",
        "resourceGroup": settings.resource_group,
        "subscriptionId": settings.subscription_id,
        "primaryRegion": settings.location,
        "regions": [settings.location],
    }

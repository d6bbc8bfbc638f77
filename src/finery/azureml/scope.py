"""Where in Azure's tree a request points: a workspace or a registry, and the ids made from it.

Azure compares paths without regard to case and its clients send doubled slashes; `ArmPaths`
gives every path one form before it is routed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from finery.workspace.errors import NotFoundError
from finery.workspace.place import Workspace

PROVIDER = "Microsoft.MachineLearningServices"
RESOURCES = "/subscriptions/{sub}/resourceGroups/{rg}/providers/" + PROVIDER
WORKSPACE = RESOURCES + "/workspaces/{ws}"
REGISTRY = "/mferp/managementfrontend" + RESOURCES + "/registries/{reg}"

# Path words whose spelling is fixed; everything else in a path is somebody's name.
WORDS = {
    word.lower(): word
    for word in (
        *("subscriptions", "resourceGroups", "providers", PROVIDER, "workspaces", "registries"),
        *("locations", "vmSizes", "usages", "quotas", "computes", "datastores", "listSecrets"),
        *("jobs", "cancel", "models", "data", "components", "environments", "codes", "versions"),
        *("onlineEndpoints", "batchEndpoints", "deployments", "listKeys", "regenerateKeys"),
        *("token", "getLogs", "skus", "startPendingUpload", "tempdatarefs", "datarefs", "import"),
        *("mferp", "managementfrontend", "history", "runs", "details", "rundata", "children"),
        *("registrymanagement", "discovery", "operations", "schedules", "connections"),
        *("start", "stop", "restart", "listNodes", "metadata", "endpoints", "msi", "mlflow"),
    )
}
# Below these the rest of the path is data (blob names, run ids), not ours to respell.
_VERBATIM = (
    "/_blob",
    "/_artifacts",
    "/mlflow",
    "/openai",
    "/v1",
    "/studio",
    "/endpoints",
    "/static",
)
_NAMED = {  # a word after one of these is a name, whatever it looks like
    *("subscriptions", "resourceGroups", "workspaces", "registries", "locations", "computes"),
    *("datastores", "jobs", "models", "data", "components", "environments", "codes", "versions"),
    *("onlineEndpoints", "batchEndpoints", "deployments", "operations", "runs", "schedules"),
    *("connections", "datarefs", "tempdatarefs"),
}


def canonical(path: str) -> str:
    """`path` with single slashes and Azure's own spelling of its fixed words."""
    parts = [part for part in path.split("/") if part]
    if any(("/" + "/".join(parts)).lower().startswith(prefix) for prefix in _VERBATIM):
        return path
    spelled: list[str] = []
    a_name_follows = False
    for part in parts:
        word = part if a_name_follows else WORDS.get(part.lower(), part)
        a_name_follows = not a_name_follows and word in _NAMED
        spelled.append(word)
    return "/" + "/".join(spelled)


class ArmPaths:
    """Middleware: route by the canonical path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respell the path of an HTTP request, then go on."""
        if scope["type"] == "http":
            scope = {**scope, "path": canonical(scope["path"])}
        await self.app(scope, receive, send)


@dataclass(frozen=True)
class Target:
    """The workspace or the registry that a path names, as the caller wrote it."""

    subscription: str
    resource_group: str
    workspace: str = ""
    registry: str = ""

    @property
    def arm(self) -> str:
        """The ARM id of the workspace or registry."""
        group = f"/subscriptions/{self.subscription}/resourceGroups/{self.resource_group}"
        place = f"registries/{self.registry}" if self.registry else f"workspaces/{self.workspace}"
        return f"{group}/providers/{PROVIDER}/{place}"

    def version_id(self, kind: str, name: str, version: str) -> str:
        """The id of an asset version: `kind` is models, data, components, environments, codes."""
        if self.registry:
            return f"azureml://registries/{self.registry}/{kind}/{name}/versions/{version}"
        return f"{self.arm}/{kind}/{name}/versions/{version}"


def the_target(request: Request) -> Target:
    """The target of the request; raises NotFoundError for a registry that is not configured.

    One service is one workspace: it answers to whatever names its users have in their code.
    """
    names = request.path_params
    target = Target(names["sub"], names["rg"], names.get("ws", ""), names.get("reg", ""))
    workspace: Workspace = request.app.state.workspace
    if target.registry and target.registry not in workspace.settings.registries:
        known = ", ".join(workspace.settings.registries)
        raise NotFoundError(f"No registry is called {target.registry}. There is: {known}.")
    return target


def the_workspace(request: Request) -> Workspace:
    """The workspace that the service holds."""
    return request.app.state.workspace


TargetDep = Annotated[Target, Depends(the_target)]
WorkspaceDep = Annotated[Workspace, Depends(the_workspace)]


def paged(items: list[Any], next_link: str | None = None) -> dict[str, Any]:
    """A page of a list."""
    return {"value": items, **({"nextLink": next_link} if next_link else {})}

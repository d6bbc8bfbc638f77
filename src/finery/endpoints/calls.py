"""A request at an endpoint's own door: who asks, and whom it goes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from finery.endpoints import keys, routing
from finery.endpoints.gateway import Gateway, Reply
from finery.endpoints.routing import Table
from finery.endpoints.running import Endpoints
from finery.endpoints.values import Deployment
from finery.workspace.place import Workspace

DEPLOYMENT = "azureml-model-deployment"  # the header that names one


@dataclass(frozen=True)
class Call:
    """One request whose sender may make it."""

    table: Table
    request: Request
    named: str  # the deployment it asks for; "" leaves it to the traffic

    @property
    def gateway(self) -> Gateway:
        """The service's."""
        endpoints: Endpoints = self.request.app.state.endpoints
        return endpoints.gateway

    @property
    def headers(self) -> Mapping[str, str]:
        """Of the request."""
        return self.request.headers

    async def forward(self, path: str, body: bytes, deployment: Deployment) -> Reply:
        """The deployment's answer, and a copy of the request to the mirror if it has one."""
        reply = await self.gateway.forward(
            self.table, deployment, path, body, self.headers, self._gone
        )
        if not self.named:
            self.gateway.copy(self.table, path, body, self.headers)
        return reply

    async def _gone(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass


async def opened(request: Request, name: str) -> Call:
    """The call, its key or token checked; raises NotFoundError or UnauthenticatedError."""
    workspace: Workspace = request.app.state.workspace
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    table = await run_in_threadpool(routing.table, workspace, name)
    keys.check(workspace, table.endpoint, given.strip() if scheme.lower() == "bearer" else "")
    return Call(table, request, request.headers.get(DEPLOYMENT, ""))

"""The token endpoint of DefaultAzureCredential.

It speaks two of azure-identity's managed identities: Azure ML's (GET with the secret that
`finery env` gives) and Cloud Shell's (POST without a secret), the latter only for sockets of
the very user account that the service runs under.
"""

from __future__ import annotations

import os
import time
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Header, Request

from finery.azureml import peer
from finery.azureml.scope import WorkspaceDep
from finery.errors import Fault, InputError
from finery.workspace import identity
from finery.workspace.errors import ForbiddenError, UnauthenticatedError
from finery.workspace.place import Workspace
from finery.workspace.settings import OWNER

router = APIRouter()


@router.get("/msi/token")
def by_secret(
    workspace: WorkspaceDep,
    resource: str = "",
    secret_header: Annotated[str, Header(alias="secret")] = "",
) -> dict[str, str]:
    """A token for whoever knows the secret."""
    user = identity.user_of(workspace, secret_header)
    if user is None:
        text = "The secret of the token endpoint is wrong. Take MSI_SECRET from `finery env`."
        raise UnauthenticatedError(text)
    return _token(workspace, resource, user)


@router.post("/msi/token")
async def by_socket(request: Request, workspace: WorkspaceDep) -> dict[str, str]:
    """A token for a process of the service's own user on this machine."""
    # A page of somebody else's in the owner's browser has the owner's sockets. What gives it away
    # is its origin, or its name.
    by_browser = "origin" in request.headers or request.url.hostname not in peer.NAMES
    if by_browser or _user_at_the_other_end(request) != os.getuid():
        text = (
            "Without MSI_SECRET, tokens are for processes of the service's own user on this "
            "machine. Take MSI_SECRET from `finery env`."
        )
        raise ForbiddenError(text)
    form = parse_qs((await request.body()).decode("utf-8", "replace"))
    return _token(workspace, form.get("resource", [""])[0], OWNER)


def _user_at_the_other_end(request: Request) -> int | None:
    client, server = request.client, request.scope.get("server")
    if client is None or server is None:
        return None
    return peer.owner((client.host, client.port), (server[0], server[1]))


def _token(workspace: Workspace, resource: str, user: str) -> dict[str, str]:
    audience = resource.removesuffix("/.default").rstrip("/")
    allowed = identity.audiences(workspace) | {identity.STORAGE}
    if audience not in allowed:
        expected = ", ".join(sorted(allowed))
        raise InputError([Fault("resource", repr(resource), f"one of {expected}")])
    token = identity.mint(workspace, audience, user)
    until = str(int(time.time()) + identity.HOUR)
    return {
        "access_token": token,
        "resource": resource,
        "token_type": "Bearer",
        "expires_on": until,
        "expires_in": str(identity.HOUR),
    }

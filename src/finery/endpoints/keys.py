"""The keys and tokens of an endpoint: made, shown to their owner, checked in constant time."""

from __future__ import annotations

import hmac
import secrets
from typing import Literal

from finery.endpoints.gateway import control
from finery.endpoints.service import get
from finery.endpoints.tables import endpoints
from finery.endpoints.values import Endpoint
from finery.workspace import identity
from finery.workspace.errors import ConflictError, UnauthenticatedError
from finery.workspace.place import Workspace
from finery.workspace.store import now

TOKEN_SECONDS = 12 * 3600


def regenerate(
    workspace: Workspace, name: str, which: Literal["primary", "secondary"], value: str = ""
) -> None:
    """Replace one key and leave the other; a given value that is the present one means "new".

    (The SDK sends the present key along when it asks for another.)
    """
    endpoint = get(workspace, name)
    refuse_unless(endpoint, "key")
    present = (endpoint.primary_key, endpoint.secondary_key)
    new = value if value and value not in present else secrets.token_urlsafe(32)
    with workspace.store.write() as connection:
        connection.execute(
            endpoints.update()
            .where(endpoints.c.name == name)
            .values({f"{which}_key": new, "modified_at": now()})
        )
    control.reload(workspace)  # the replaced key opens nothing from here on


def refuse_unless(endpoint: Endpoint, mode: str) -> None:
    """Raise ConflictError when the endpoint proves its callers in another way."""
    if endpoint.auth_mode != mode:
        raise ConflictError(f"The endpoint {endpoint.name} works with {endpoint.auth_mode}s only.")


def token(workspace: Workspace, endpoint: Endpoint) -> str:
    """A token that opens this endpoint for a while."""
    refuse_unless(endpoint, "aml_token")
    return identity.mint(workspace, _audience(endpoint), seconds=TOKEN_SECONDS)


def check(workspace: Workspace, endpoint: Endpoint, given: str) -> None:
    """Raise UnauthenticatedError unless `given` opens the endpoint."""
    if endpoint.auth_mode == "key":
        keys = (endpoint.primary_key, endpoint.secondary_key)
        fits = [hmac.compare_digest(given.encode(), key.encode()) for key in keys]
        if not any(fits):
            raise UnauthenticatedError(
                f"The key of endpoint {endpoint.name} is missing or wrong: send it as "
                "'Authorization: Bearer KEY'."
            )
    elif endpoint.auth_mode == "aml_token":
        identity.verify(workspace, given, {_audience(endpoint)})
    else:
        identity.verify(workspace, given, {identity.PUBLIC_MACHINE_LEARNING})


def _audience(endpoint: Endpoint) -> str:
    return f"finery/endpoints/{endpoint.name}"

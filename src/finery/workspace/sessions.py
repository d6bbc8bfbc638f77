"""Sessions of browsers: a cookie that pages take, and no route of the API does."""

from __future__ import annotations

from collections.abc import Mapping

from finery.workspace import identity
from finery.workspace.place import Workspace


def cookie(workspace: Workspace) -> str:
    """The cookie's name: cookies are shared by all ports of a host, so the port is part of it."""
    return f"finery-{workspace.settings.port}"


def session(workspace: Workspace, cookies: Mapping[str, str]) -> identity.Claims:
    """Whose session the cookies hold; raises UnauthenticatedError when there is none."""
    return identity.verify(workspace, cookies.get(cookie(workspace), ""), {identity.BROWSER})

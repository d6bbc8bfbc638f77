"""A person's browser: a link from the command line becomes a session cookie."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from finery.azureml.scope import WorkspaceDep
from finery.errors import Fault, InputError
from finery.workspace import identity
from finery.workspace.identity import HALF_A_DAY, LOGIN
from finery.workspace.place import Workspace

router = APIRouter()

# What a session may look at. API routes take tokens alone, which no other page can send.
PAGES = ("/mlflow", "/studio")


def cookie(workspace: Workspace) -> str:
    """The cookie's name: cookies are shared by all ports of a host, so the port is part of it."""
    return f"finery-{workspace.settings.port}"


@router.get(LOGIN)
def login(request: Request, workspace: WorkspaceDep) -> Response:
    """Check the link, set the cookie, go to the page."""
    identity.verify_query(workspace, LOGIN, dict(request.query_params))
    page = request.query_params.get("next", "/mlflow/")
    if not page.startswith(PAGES) or "\\" in page:
        raise InputError([Fault("next", repr(page), f"a page below {' or '.join(PAGES)}")])
    response = RedirectResponse(page, status_code=303)
    response.set_cookie(
        cookie(workspace),
        identity.mint(workspace, identity.BROWSER, seconds=HALF_A_DAY),
        max_age=HALF_A_DAY,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return response

"""A person's browser: a link from the command line becomes a session cookie."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from finery.azureml.scope import WorkspaceDep
from finery.errors import Fault, InputError
from finery.jobs import service
from finery.workspace import identity
from finery.workspace.errors import UnauthenticatedError
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


SIGNED_OUT = (
    "<!doctype html><title>finery</title><p>This browser is not signed in. Open the address that "
    "<code>finery up</code> prints, then come back to this page.</p>"
)


@router.get("/studio/{page:path}")
def studio(page: str, request: Request, workspace: WorkspaceDep) -> Response:
    """Where the links of jobs lead: to the run in MLflow, for a browser that is signed in."""
    try:
        session = request.cookies.get(cookie(workspace), "")
        identity.verify(workspace, session, {identity.BROWSER})
    except UnauthenticatedError:
        return HTMLResponse(SIGNED_OUT, status_code=401)
    kind, _, name = page.partition("/")
    if kind != "jobs" or not name:
        return RedirectResponse("/mlflow/", status_code=303)
    run = service.get(workspace, name.strip("/")).name
    return RedirectResponse(f"/mlflow/#/runs/{quote(run, safe='')}", status_code=303)

"""A person's browser: a link from the command line becomes a session cookie."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from finery.azureml.scope import WorkspaceDep
from finery.errors import Fault, InputError
from finery.workspace import identity, sessions
from finery.workspace.errors import UnauthenticatedError
from finery.workspace.identity import HALF_A_DAY, LOGIN
from finery.workspace.place import Workspace

router = APIRouter()

# What a session may look at. API routes take tokens alone, which no other page can send.
PAGES = ("/mlflow", "/studio")


class SignedOutError(UnauthenticatedError):
    """A person's browser asks for a page without a session."""


def has_session(request: Request, workspace: Workspace) -> bool:
    """Whether a browser is signed in."""
    try:
        sessions.session(workspace, request.cookies)
    except UnauthenticatedError:
        return False
    return True


def shows_pages(request: Request) -> bool:
    """Whether a person looks at what is answered: a browser says so when it opens an address."""
    is_page = "text/html" in request.headers.get("accept", "")
    return is_page and request.method == "GET" and "authorization" not in request.headers


@router.get(LOGIN)
def login(request: Request, workspace: WorkspaceDep) -> Response:
    """Check the link, set the cookie, go to the page."""
    page = request.query_params.get("next", "/studio/")
    if not page.startswith(PAGES) or "\\" in page:
        raise InputError([Fault("next", repr(page), f"a page below {' or '.join(PAGES)}")])
    response = RedirectResponse(page, status_code=303)
    try:
        identity.verify_query(workspace, LOGIN, dict(request.query_params))
    except UnauthenticatedError as error:
        if has_session(request, workspace):  # an old link in a browser that needs none
            return response
        raise SignedOutError(str(error)) from None
    response.set_cookie(
        sessions.cookie(workspace),
        identity.mint(workspace, identity.BROWSER, seconds=HALF_A_DAY),
        max_age=HALF_A_DAY,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return response


SIGNED_OUT = (
    '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="3">'
    "<title>finery</title><p>This browser is not signed in. Open the address that "
    "<code>finery up</code> prints (where the service runs, it prints a new one) in another tab of "
    "this browser: this page then opens by itself."
)


def sign_in(request: Request) -> Response:
    """What a browser without a session sees: the page over plain HTTP, where sessions are, or how
    to begin one. What follows `#` in the address stays with the browser on its way.
    """
    workspace: Workspace = request.app.state.workspace
    url, host = request.url, request.client.host if request.client else ""
    if url.scheme == "https" and url.path.startswith(PAGES) and host in ("127.0.0.1", "::1"):
        query = f"?{url.query}" if url.query else ""
        address = f"{workspace.settings.http_url}{quote(url.path)}{query}"
        return RedirectResponse(address, status_code=303)
    return HTMLResponse(SIGNED_OUT, status_code=401)

"""Who calls: every route asks for a token, but for those in one table."""

from __future__ import annotations

from fastapi import Request

from finery.azureml import browser
from finery.workspace import identity, sessions
from finery.workspace.errors import ForbiddenError, UnauthenticatedError
from finery.workspace.place import Workspace

# Routes that take no bearer token, by path template ("*" at the end: and all below), each with
# what guards it instead. A test holds this table against the router.
OPEN = {
    "/metadata/endpoints": "public: addresses, no data; asked for before there is a token",
    "/discovery": "public: one address; the SDK sends no token",
    "/msi/token": "the secret header, or the socket's owner (azureml/tokens.py)",
    "/studio": "leads to the pages below it, nothing else",
    "/studio/*": "says nothing without the cookie of a signed address (studio/security.py)",
    "/login": "a signed address (azureml/browser.py)",
    "/healthz": "public: says that the service is up, nothing else",
    "/_blob.blob.local/*": "a token for storage or a signed address (azureml/blobs.py)",
    "/_artifacts/*": "a signed address (azureml/runs.py)",
    "/mlflow/signed/*": "a signed address (azureml/tracking.py)",
}

READING = ("GET", "HEAD", "OPTIONS")  # methods that change nothing


def is_open(template: str) -> bool:
    """Whether a route is one of the exceptions."""
    return any(
        template.startswith(entry[:-1]) if entry.endswith("*") else template == entry
        for entry in OPEN
    )


async def the_caller(request: Request) -> None:
    """Dependency of the whole application: set `request.state.caller` or refuse with 401."""
    template = request.scope["route"].path
    if is_open(template):
        return
    workspace: Workspace = request.app.state.workspace
    is_page = template.startswith(browser.PAGES)
    if is_page and browser.shows_pages(request) and not browser.has_session(request, workspace):
        raise browser.SignedOutError("This browser is not signed in.")
    session = request.cookies.get(sessions.cookie(workspace))
    if session and is_page and "authorization" not in request.headers:
        claims = identity.verify(workspace, session, {identity.BROWSER})
        _refuse_other_pages(request)
    else:
        allowed = identity.audiences(workspace)
        allowed |= {identity.TRACKING} if template.startswith("/mlflow") else set()
        claims = identity.verify(workspace, bearer(request), allowed)
    request.state.caller = claims.subject


def _refuse_other_pages(request: Request) -> None:
    """Raise ForbiddenError for what a page of another origin asks the owner's browser to do.

    To cookies every port of a host is the same site, and MLflow cannot tell: it stands behind us.
    """
    origin = request.headers.get("origin")
    if request.method not in READING and origin != f"{request.url.scheme}://{request.url.netloc}":
        raise ForbiddenError(f"A page of {origin or 'nowhere'} may change nothing here.")


def bearer(request: Request) -> str:
    """The bearer token of a request; raises UnauthenticatedError when there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        text = "The request carries no token. Take the settings of `finery env` (or `finery exec`)."
        raise UnauthenticatedError(text)
    return token.strip()

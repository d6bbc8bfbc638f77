"""A page's way from the request to the browser: checks, the page itself, errors as pages."""

from __future__ import annotations

import gzip
import logging
import uuid
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from finery.errors import FineryError, InputError
from finery.studio import fine_tune_upload as uploads
from finery.studio import layout, security
from finery.workspace import errors

log = logging.getLogger("finery.studio")
Answer = Callable[[Request], Coroutine[Any, Any, Response]]

STATIC, SIGN_IN = "/studio/static/", "/studio/sign-in"
FINE_TUNE = "/studio/fine-tune"  # whose form may bring files
_LEAST_PACKED = 860  # bytes; less gains nothing

# The first class that fits decides.
STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.NotFoundError, 404, "Not found"),
    (errors.ConflictError, 409, "Not as it stands"),
    (errors.ForbiddenError, 403, "Refused"),
    (errors.UnauthenticatedError, 401, "Not signed in"),
    (errors.NotImplementedHereError, 501, "Not here"),
    (errors.UnavailableError, 503, "Not at the moment"),
    (InputError, 400, "Something in the request is wrong"),
    (RequestValidationError, 400, "Something in the request is wrong"),
    (FineryError, 400, "That cannot be done"),
)


class StudioRoute(APIRoute):
    """A route whose requests are checked, and whose every answer carries the same headers."""

    def get_route_handler(self) -> Answer:
        """The page between its checks."""
        page = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                await _admit(request)
                response = await page(request)
            except security.SignedOutError:
                response = signed_out(request)
            except Exception as error:
                response = refusal(request, error)
            return _finished(request, response)

        return answer


async def _admit(request: Request) -> None:
    """Every check of a request; the session and the form of one that passes."""
    workspace, path = layout.workspace_of(request), request.url.path
    security.check_origin(request, workspace)
    if path.startswith(STATIC):
        return
    is_change = request.method not in security.READING
    if path != SIGN_IN:
        request.state.session = security.session_of(request, workspace)
        request.state.caller = request.state.session.user
    if is_change and path == FINE_TUNE and uploads.is_form_with_files(request):
        received = await uploads.receive(request, workspace)  # it checks the token itself
        request.state.form, request.state.upload_faults = received.fields, received.faults
    elif is_change:
        request.state.form = await security.form_of(request)
        if path != SIGN_IN:  # whoever signs in has no page of a session yet
            security.check_token(request, workspace, request.state.form)


def refusal(request: Request, error: Exception) -> Response:
    """An error as a page that says what to do, or as a message on the page that asked."""
    if isinstance(error, HTTPException):
        status, title, text = error.status_code, "That cannot be done", str(error.detail)
    else:
        found = ((s, t) for kind, s, t in STATUS if isinstance(error, kind))
        status, title = next(found, (500, "finery failed"))
        text = _words(error) if status != 500 else _defect(request, error)
    if request.headers.get("hx-request"):
        body = layout.render("message.html", text=text, kind="bad")
        return HTMLResponse(body, status, {"HX-Retarget": "#messages", "HX-Reswap": "innerHTML"})
    return layout.page(request, "error.html", status, title=title, text=text, number=status)


def _words(error: Exception) -> str:
    if isinstance(error, RequestValidationError):
        places = (
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()
        )
        return "; ".join(places)
    return str(error)


def _defect(request: Request, error: Exception) -> str:
    reference = uuid.uuid4().hex[:12]
    route = getattr(request.scope.get("route"), "path", "an unknown route")
    log.error("defect %s at %s %s", reference, request.method, route, exc_info=error)
    return f"The service's log holds the cause under {reference}. `finery doctor` looks for faults."


def signed_out(request: Request) -> Response:
    """What a browser without a session sees: how to begin one, or the plain port, where it is.

    What follows `#` in an address stays with the browser on its way.
    """
    workspace = layout.workspace_of(request)
    url, host = request.url, request.client.host if request.client else ""
    if request.headers.get("hx-request"):  # of a page whose session has ended: load it anew
        return Response(status_code=401, headers={"HX-Refresh": "true"})
    is_page = request.method in security.READING
    if is_page and url.scheme == "https" and host in ("127.0.0.1", "::1"):
        query = f"?{url.query}" if url.query else ""
        address = f"{workspace.settings.http_url}{quote(url.path)}{query}"
        return RedirectResponse(address, status_code=303)
    return layout.page(request, "sign_in.html", 401, page=_own_page(request), fault="")


def _own_page(request: Request) -> str:
    return request.url.path if request.method in security.READING else "/studio/"


def _finished(request: Request, response: Response) -> Response:
    """The headers that every answer has; text is packed for browsers that can unpack it."""
    for name, value in security.HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["Vary"] = "Accept-Encoding, Cookie, HX-Request"
    kind = response.headers.get("content-type", "")
    if (
        not isinstance(response, StreamingResponse)
        and "content-encoding" not in response.headers
        and kind.startswith(("text/", "application/json"))
        and len(getattr(response, "body", b"")) >= _LEAST_PACKED
        and "gzip" in request.headers.get("accept-encoding", "")
    ):
        response.body = gzip.compress(bytes(response.body), 5, mtime=0)
        response.headers["content-length"] = str(len(response.body))
        response.headers["content-encoding"] = "gzip"
    return response

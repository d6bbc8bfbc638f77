"""Azure's error shape: `{"error": {"code", "message"}}` with the status its clients expect.

User errors must never be a 5xx: azure-core retries those for minutes.
"""

from __future__ import annotations

import logging
import uuid

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from finery.azureml import browser
from finery.errors import FineryError, InputError
from finery.workspace import errors

log = logging.getLogger("finery.azureml")

# The first class that fits decides.
STATUS: tuple[tuple[type[FineryError], int, str], ...] = (
    (errors.NotFoundError, 404, "NotFound"),
    (errors.ConflictError, 409, "Conflict"),
    (errors.ForbiddenError, 403, "Forbidden"),
    (errors.UnauthenticatedError, 401, "InvalidAuthenticationToken"),
    (errors.NotImplementedHereError, 501, "NotImplemented"),
    (errors.UnavailableError, 503, "ServiceUnavailable"),
    (InputError, 400, "UserError"),
    (FineryError, 400, "UserError"),
)


def error_response(status: int, code: str, message: str) -> JSONResponse:
    """An Azure-shaped error."""
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=status)


def response_for(error: FineryError) -> JSONResponse:
    """The response that says what finery refused."""
    status, code = next((s, c) for kind, s, c in STATUS if isinstance(error, kind))
    return error_response(status, code, str(error))


def install(app: FastAPI) -> None:
    """Give every error of every route Azure's shape."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, FineryError)  # noqa: S101 - the handler is registered for it
        if isinstance(error, browser.SignedOutError) and browser.shows_pages(request):
            return browser.sign_in(request)
        return response_for(error)

    async def malformed(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        places = (
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()
        )
        return error_response(400, "UserError", "; ".join(places))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101
        code = {404: "NotFound", 405: "MethodNotAllowed", 413: "RequestBodyTooLarge"}
        return error_response(
            error.status_code, code.get(error.status_code, "UserError"), str(error.detail)
        )

    async def defect(request: Request, error: Exception) -> JSONResponse:
        reference = uuid.uuid4().hex[:12]
        # The route, not the address: that may carry a signature.
        route = getattr(request.scope.get("route"), "path", "an unknown route")
        log.error("defect %s at %s %s", reference, request.method, route, exc_info=error)
        text = f"finery failed; the service's log holds the cause under {reference}."
        return error_response(500, "InternalServerError", text)

    async def unkept(request: Request, error: Exception) -> JSONResponse:
        text = "A name or value of the request cannot be kept: it is too long, or holds a NUL."
        return error_response(400, "UserError", text)

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nginx's word for it; nobody is there to read it

    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(DataError, unkept)  # PostgreSQL's; SQLite takes any text
    app.add_exception_handler(FineryError, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, defect)

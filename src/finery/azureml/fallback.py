"""Whatever else the SDK may ask for: an Azure-shaped 501 that names it."""

from __future__ import annotations

from fastapi import APIRouter, Request

from finery.workspace.errors import NotFoundError, NotImplementedHereError

router = APIRouter()
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]
# Addresses of Azure's own: what is missing below them is missing in finery, not misspelled.
AZURE = (
    "/subscriptions/",
    "/mferp/",
    "/registrymanagement/",
    "/history/",
    "/genericasset/",
    "/providers/",
)


@router.api_route("/{path:path}", methods=METHODS, include_in_schema=False)
def missing(path: str, request: Request) -> None:
    """Say that the operation is not there, and which."""
    what = f"{request.method} {request.url.path}"
    if request.url.path.startswith(AZURE):
        raise NotImplementedHereError(f"finery does not have this operation: {what}.")
    raise NotFoundError(f"There is nothing at {what}.")

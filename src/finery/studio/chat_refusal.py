"""A refusal where the question was asked, in place of the head of the page."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from finery.errors import FineryError
from finery.studio import pages


def in_place(request: Request, error: FineryError) -> Response:
    """The error as htmx puts it where the form's answer goes."""
    response = pages.refusal(request, error)
    for name in ("HX-Retarget", "HX-Reswap"):
        if name in response.headers:
            del response.headers[name]
    return response

"""What the gateway refuses or loses, by kind, with the status that Azure documents for it.

https://learn.microsoft.com/azure/machine-learning/how-to-troubleshoot-online-endpoints
"""

from __future__ import annotations

from finery.errors import FineryError
from finery.workspace.errors import (
    ForbiddenError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)


class TooSlowError(UnavailableError):
    """A replica did not answer within the deployment's time."""


class SlowSenderError(FineryError):
    """The body of a request did not come in time."""


class BodyTooLongError(FineryError):
    """The body of a request is longer than is taken."""


class MethodError(FineryError):
    """A path is asked with a method that it does not have; it has `allowed`."""

    def __init__(self, text: str, allowed: str) -> None:
        super().__init__(text)
        self.allowed = allowed


class OverloadedError(UnavailableError):
    """More requests wait than are taken."""


class ClientLeftError(UnavailableError):
    """Nobody waits for the answer any more."""


class BrokenOffError(UnavailableError):
    """A replica ended while it answered."""


class ModelNotFoundError(NotFoundError):
    """The model of a request is no deployment of the endpoint."""


# The first class that fits decides.
STATUS: tuple[tuple[type[FineryError], int, str], ...] = (
    (TooSlowError, 408, "RequestTimeout"),
    (SlowSenderError, 408, "RequestTimeout"),
    (BodyTooLongError, 413, "RequestBodyTooLarge"),
    (MethodError, 405, "MethodNotAllowed"),
    (OverloadedError, 429, "TooManyRequests"),
    (ClientLeftError, 499, "ClientClosedRequest"),
    (BrokenOffError, 424, "ModelError"),
    (UnauthenticatedError, 401, "Unauthorized"),
    (ForbiddenError, 403, "Forbidden"),
    (ModelNotFoundError, 404, "model_not_found"),
    (NotFoundError, 404, "NotFound"),
    (UnavailableError, 503, "ServiceUnavailable"),
    (FineryError, 400, "UserError"),
)

# With this header clients try again by themselves.
LATER = {429: ((b"retry-after", b"1"),), 503: ((b"retry-after", b"1"),)}


def status_of(error: FineryError) -> tuple[int, str]:
    """The status code, and the word for it."""
    return next((status, code) for kind, status, code in STATUS if isinstance(error, kind))


def is_failure(status: int) -> bool:
    """Whether an answer failed through no fault of its caller."""
    return status in (408, 429) or status >= 500

"""What the service refuses, by kind: each door turns the kind into its own status code."""

from __future__ import annotations

from finery.errors import FineryError


class NotFoundError(FineryError):
    """A thing that was named is not there."""


class ConflictError(FineryError):
    """The name is taken, or the state of the thing does not allow this."""


class ForbiddenError(FineryError):
    """The caller is known but may not do this."""


class UnauthenticatedError(FineryError):
    """No credential, or one that is not valid (any more)."""


class NotImplementedHereError(FineryError):
    """An operation that finery does not have; the message names it."""


class UnavailableError(FineryError):
    """A part that this needs is not up at the moment; trying again later may help."""

"""A request that is refused: its status, and the error's shape at each of the doors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from finery.errors import FineryError, InputError

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered."""

    status: int
    message: str
    code: str
    param: str | None = None  # the place in the body that is wrong
    details: tuple[tuple[str, str], ...] = ()  # every place and what is wrong there


class RefusedError(FineryError):
    """A refusal on its way to the client."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def refused(
    message: str, *, param: str | None = None, code: str = "invalid_request", status: int = 400
) -> RefusedError:
    """The error that says so."""
    return RefusedError(Refusal(status, message, code, param))


def refusal_of(error: FineryError) -> Refusal:
    """What a client is told of an error: what finery refuses is the client's to mend."""
    if isinstance(error, RefusedError):
        return error.refusal
    if isinstance(error, InputError):
        told = tuple((_place(fault.where), str(fault)) for fault in error.faults)
        return Refusal(400, str(error), "invalid_request", told[0][0] or None, told)
    return Refusal(400, str(error), "invalid_request")


def _place(where: str) -> str:
    return where.removeprefix("body").removeprefix(".")


def to_json(refusal: Refusal) -> dict[str, Any]:
    """The refusal as it goes from one process to another."""
    return asdict(refusal)


def from_json(value: Mapping[str, Any]) -> Refusal:
    """It, back again."""
    details = tuple((str(place), str(text)) for place, text in value["details"])
    return Refusal(value["status"], value["message"], value["code"], value["param"], details)


def openai_shape(refusal: Refusal) -> dict[str, Any]:
    """https://platform.openai.com/docs/guides/error-codes."""
    kind = "invalid_request_error" if refusal.status < 500 else "server_error"
    return {
        "error": {
            "message": refusal.message,
            "type": _TYPES.get(refusal.status, kind),
            "param": refusal.param,
            "code": refusal.code,
        }
    }


def azure_ai_shape(refusal: Refusal) -> dict[str, Any]:
    """The model inference API's: 422 with details for a body that breaks its rules.

    https://learn.microsoft.com/rest/api/aifoundry/modelinference
    """
    if refusal.status == 422:
        details = refusal.details or ((refusal.param or "", refusal.message),)
        told = [
            {"loc": ["body", *filter(None, [place])], "msg": text, "type": "value_error"}
            for place, text in details
        ]
        message = "invalid input error"
        error: dict[str, Any] = {"code": "Invalid input", "status": 422, "message": message}
        return {"error": {**error, "details": told}}
    error = {"code": refusal.code, "message": refusal.message, "status": refusal.status}
    return {"error": error}

"""Errors as OpenAI's clients read them.

https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

import json

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


def openai_error(status: int, code: str, message: str) -> bytes:
    """The body of an error."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": None, "code": code}
    return json.dumps({"error": error}).encode()

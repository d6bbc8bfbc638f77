"""Errors as the clients of Azure's scoring address read them: `{"error": {"code", "message"}}`.

Its chat routes (Azure AI model inference) add `status` to them.
https://learn.microsoft.com/rest/api/aifoundry/modelinference
"""

from __future__ import annotations

import json

STATUS_HEADER = b"ms-azureml-model-error-statuscode"
REASON_HEADER = b"ms-azureml-model-error-reason"


def scoring_error(status: int, code: str, message: str) -> bytes:
    """The body of an error on the scoring address."""
    return json.dumps({"error": {"code": code, "message": message}}).encode()


def inference_error(status: int, code: str, message: str) -> bytes:
    """The body of an error on the chat routes."""
    return json.dumps({"error": {"code": code, "message": message, "status": status}}).encode()


def said_by_model(content: bytes) -> str:
    """What a replica's refusal says."""
    try:
        return str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return content[:1000].decode("utf-8", errors="replace")


def model_error_headers(status: int, said: str) -> tuple[tuple[bytes, bytes], ...]:
    """What went wrong behind a 424: the model server's own status, its first line."""
    lines = said.splitlines()
    reason = "".join(c if " " <= c <= "~" else "?" for c in lines[0][:200]) if lines else ""
    return (
        (STATUS_HEADER, str(status).encode()),
        (REASON_HEADER, reason.encode() or b"no reason given"),
    )

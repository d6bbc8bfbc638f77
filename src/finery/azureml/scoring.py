"""The scoring address of an endpoint: `POST /endpoints/NAME/score` with its key.

Status codes: https://learn.microsoft.com/azure/machine-learning/how-to-troubleshoot-online-endpoints
"""

from __future__ import annotations

import json

from fastapi import APIRouter, Request, Response

from finery.azureml.errors import error_response, response_for
from finery.endpoints import calls, routing
from finery.endpoints.gateway import BrokenOffError, ClientLeftError, TooSlowError
from finery.endpoints.routing import OverloadedError
from finery.errors import FineryError
from finery.workspace.errors import UnauthenticatedError

router = APIRouter()

# With this header clients try again by themselves.
LATER = {429: {"retry-after": "1"}, 503: {"retry-after": "1"}}

CALL_ERRORS: tuple[tuple[type[FineryError], int, str], ...] = (
    (TooSlowError, 408, "RequestTimeout"),
    (OverloadedError, 429, "TooManyRequests"),
    (ClientLeftError, 499, "ClientClosedRequest"),
    (BrokenOffError, 424, "ModelError"),
    (UnauthenticatedError, 401, "Unauthorized"),
)


@router.get("/endpoints/{name}/")
@router.get("/endpoints/{name}/health")
async def health(name: str, request: Request) -> dict[str, str]:
    """Whether the endpoint has a replica that answers; 503 when it has none."""
    call = await calls.opened(request, name)
    deployment = routing.choose(call.table, call.named)
    routing.pick(call.table, deployment, {})
    return {"status": "healthy", "deployment": deployment.name}


@router.post("/endpoints/{name}/score")
async def score(name: str, request: Request) -> Response:
    """The model's answer to Azure's scoring body."""
    try:
        call = await calls.opened(request, name)
        deployment = routing.choose(call.table, call.named)
        reply = await call.forward("/score", await request.body(), deployment)
        content = b"".join([part async for part in reply.body])
    except FineryError as error:
        return _refusal(error)
    headers = {calls.DEPLOYMENT: deployment.name}
    if reply.status >= 400:
        return _model_error(reply.status, content, headers)
    return Response(content, reply.status, headers, reply.content_type)


def _refusal(error: FineryError) -> Response:
    known = (one for one in CALL_ERRORS if isinstance(error, one[0]))
    _, status, code = next(known, (None, 0, ""))
    response = error_response(status, code, str(error)) if status else response_for(error)
    response.headers.update(LATER.get(response.status_code, {}))
    return response


def _model_error(status: int, content: bytes, headers: dict[str, str]) -> Response:
    """424: the model's server refused; what it said goes into the message."""
    try:
        said = str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = content[:1000].decode("utf-8", errors="replace")
    response = error_response(424, "ModelError", said)
    reason = said.splitlines()[0][:200] if said else "no reason given"
    response.headers.update(
        headers
        | {
            "ms-azureml-model-error-statuscode": str(status),
            "ms-azureml-model-error-reason": reason.encode("ascii", "replace").decode(),
        }
    )
    return response

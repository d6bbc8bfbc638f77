"""OpenAI's routes of an endpoint: `base_url = …/endpoints/NAME/v1`, `api_key` = its key.

https://platform.openai.com/docs/api-reference/chat; a model is a deployment, or the endpoint
itself, which draws one by traffic.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from finery.azureml.errors import STATUS
from finery.azureml.scoring import CALL_ERRORS, LATER
from finery.endpoints import calls, routing
from finery.endpoints.calls import Call
from finery.endpoints.gateway import Reply
from finery.endpoints.values import Deployment
from finery.errors import FineryError
from finery.workspace.errors import NotFoundError

router = APIRouter()
BASE = "/endpoints/{name}/v1"

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ModelNotFoundError(NotFoundError):
    """The model of a request is no deployment of the endpoint."""


@router.get(BASE + "/models")
async def models(name: str, request: Request) -> Response:
    """The endpoint and its deployments, as models."""

    async def answer() -> Response:
        call = await calls.opened(request, name)
        return JSONResponse({"object": "list", "data": _models(call)})

    return await _shaped(answer)


@router.get(BASE + "/models/{model}")
async def model(name: str, model: str, request: Request) -> Response:
    """One of them."""

    async def answer() -> Response:
        found = [one for one in _models(await calls.opened(request, name)) if one["id"] == model]
        if not found:
            raise ModelNotFoundError(f"No model is called {model!r} at the endpoint {name}.")
        return JSONResponse(found[0])

    return await _shaped(answer)


@router.post(BASE + "/chat/completions")
async def chat(name: str, request: Request) -> Response:
    """An answer, whole or in pieces."""

    async def answer() -> Response:
        call = await calls.opened(request, name)
        body = _parsed(await request.body())
        deployment = _deployment(call, body)
        content = json.dumps({**body, "model": deployment.name}).encode()
        reply = await call.forward("/v1/chat/completions", content, deployment)
        return await _passed_on(reply, {calls.DEPLOYMENT: deployment.name})

    return await _shaped(answer)


async def _passed_on(reply: Reply, headers: dict[str, str]) -> Response:
    if reply.content_type.startswith("text/event-stream"):
        headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
        pieces = _until_broken(reply.body)
        return StreamingResponse(pieces, reply.status, headers, reply.content_type)
    content = b"".join([part async for part in reply.body])
    return Response(content, reply.status, headers, reply.content_type)


async def _until_broken(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The stream; its headers are gone, so a break is told as its last event."""
    try:
        async for part in body:
            yield part
    except FineryError as error:
        yield f"data: {json.dumps(_error(error)[1])}\n\n".encode()


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except (UnicodeDecodeError, ValueError) as error:
        raise FineryError(f"The request's body is not JSON: {error}.") from None
    if not isinstance(body, dict):
        raise FineryError("The request's body is no JSON object.")
    return body


def _deployment(call: Call, body: dict[str, Any]) -> Deployment:
    wanted = body.get("model")
    if wanted in (None, "", call.table.endpoint.name):
        return routing.choose(call.table, call.named)
    if not isinstance(wanted, str) or wanted not in call.table.deployments:
        known = ", ".join([call.table.endpoint.name, *sorted(call.table.deployments)])
        raise ModelNotFoundError(f"No model is called {wanted!r} here. There is: {known}.")
    return call.table.deployments[wanted]


def _models(call: Call) -> list[dict[str, Any]]:
    endpoint = call.table.endpoint
    made = {endpoint.name: endpoint.created_at} | {
        name: found.created_at for name, found in call.table.deployments.items()
    }
    return [
        {
            "id": name,
            "object": "model",
            "created": int(at.replace(tzinfo=UTC).timestamp()),
            "owned_by": "finery",
        }
        for name, at in made.items()
    ]


async def _shaped(answer: Callable[[], Awaitable[Response]]) -> Response:
    try:
        return await answer()
    except FineryError as error:
        status, body = _error(error)
        return JSONResponse(body, status, LATER.get(status))


def _error(error: FineryError) -> tuple[int, dict[str, Any]]:
    """Status and body as OpenAI's clients read them."""
    known = (*CALL_ERRORS, *STATUS)
    status, code = next((s, c) for kind, s, c in known if isinstance(error, kind))
    if isinstance(error, ModelNotFoundError):
        code = "model_not_found"
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return status, {"error": {"message": str(error), "type": kind, "param": None, "code": code}}

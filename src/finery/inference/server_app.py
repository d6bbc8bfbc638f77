"""The HTTP face of a replica: OpenAI's routes, Azure AI's, Azure ML's `/score`, and its health."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from finery import __version__
from finery.inference.protocol import refusals
from finery.inference.protocol.reading import ROUTES
from finery.inference.protocol.refusals import Refusal, refused
from finery.inference.protocol.swagger import document
from finery.inference.server_adapters import add, remove
from finery.inference.server_answers import answer
from finery.inference.server_gate import Gate
from finery.inference.server_metrics import CONTENT_TYPE
from finery.inference.server_state import Replica

Handler = Callable[[Request], Awaitable[Response]]


def create_app(replica: Replica) -> Gate:
    """The replica's routes behind its gate."""
    routes = [
        Route("/", _health),
        Route("/health", _health),
        Route("/info", _info),
        Route("/swagger.json", _swagger),
        Route("/metrics", _metrics),
        Route("/v1/models", _models),
        Route("/v1/models/{model:path}", _model),
        Route("/adapters", add, methods=["POST"]),
        Route("/adapters/{name}", remove, methods=["DELETE"]),
        *(Route(path, answer, methods=["POST"]) for path in ROUTES),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _no_route})
    app.router.redirect_slashes = False
    app.state.replica = replica
    return Gate(app, replica)


async def _health(request: Request) -> Response:
    replica: Replica = request.app.state.replica
    if fault := replica.fault():
        told = {"status": "unhealthy", "model": replica.name, "reason": fault}
        return JSONResponse(told, 503, {"retry-after": "1"})
    return JSONResponse({"status": "healthy", "model": replica.name})


async def _info(request: Request) -> Response:
    replica: Replica = request.app.state.replica
    engine = replica.engine
    return JSONResponse(
        {
            "model_name": replica.name,
            "model_type": "chat-completion",
            "model_provider_name": "finery",
            "engine": engine.name,
            "precision": engine.precision,
            "context": engine.context,
            "features": sorted(engine.features),
            "adapters": sorted(replica.adapters),
            **replica.facts,
        }
    )


async def _swagger(request: Request) -> Response:
    replica: Replica = request.app.state.replica
    return JSONResponse(document(replica.name, __version__))


async def _metrics(request: Request) -> Response:
    replica: Replica = request.app.state.replica
    return Response(replica.metrics.text(), media_type=CONTENT_TYPE)


async def _models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": _known(request.app.state.replica)})


async def _model(request: Request) -> Response:
    wanted = request.path_params["model"]
    for model in _known(request.app.state.replica):
        if model["id"] == wanted:
            return JSONResponse(model)
    text = f"No model is called {wanted[:100]!r} here."
    told = refused(text, status=404, code="model_not_found", param="model").refusal
    return JSONResponse(refusals.openai_shape(told), 404)


def _known(replica: Replica) -> list[dict[str, Any]]:
    shape = {"object": "model", "created": replica.since, "owned_by": "finery"}
    adapters = ({"id": name, **shape, "parent": replica.name} for name in sorted(replica.adapters))
    return [{"id": replica.name, **shape}, *adapters]


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = {404: "no_such_route", 405: "method_not_allowed"}.get(status, "invalid_request")
    text = f"{request.method} {request.url.path[:200]} is nothing that this replica answers."
    told = refusals.openai_shape(Refusal(status, text, code))
    headers = error.headers if isinstance(error, HTTPException) else None
    return JSONResponse(told, status, headers)

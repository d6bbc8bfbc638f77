"""The gateway as an ASGI application: `/endpoints/NAME/…`, and what it says of itself.

It is written on ASGI itself: a request costs a fraction of a millisecond here, and what a
framework adds would be most of it.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from finery.endpoints.gateway import metrics
from finery.endpoints.gateway.azure_errors import inference_error, scoring_error
from finery.endpoints.gateway.bodies import NO_BODY
from finery.endpoints.gateway.call import JSON, Call, Shape
from finery.endpoints.gateway.forwarding import forward
from finery.endpoints.gateway.mirroring import copy
from finery.endpoints.gateway.models import model_list
from finery.endpoints.gateway.naming import CONVERSATION, Named
from finery.endpoints.gateway.openai_errors import openai_error
from finery.endpoints.gateway.refusals import MethodError
from finery.endpoints.gateway.routing import asked_for, choose
from finery.endpoints.gateway.state import Gateway
from finery.endpoints.routing import Table
from finery.errors import FineryError
from finery.workspace.errors import NotFoundError

log = logging.getLogger("finery.gateway")

BASE = "/endpoints/"
# What this machine calls itself. Under any other name a page in somebody's browser asks, whose
# name was made to lead here.
LOOPBACK = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})


@dataclass(frozen=True)
class Route:
    """A path below an endpoint that its replicas answer."""

    method: str
    shape: Shape  # of errors
    names_model: bool = False  # whether the body says which model is meant
    scored: bool = False  # whether a replica's refusal becomes a 424


ROUTES = {
    "/score": Route("POST", scoring_error, scored=True),
    "/swagger.json": Route("GET", scoring_error),
    "/info": Route("GET", scoring_error),
    "/chat/completions": Route("POST", inference_error, names_model=True),
    "/completions": Route("POST", inference_error, names_model=True),
    "/v1/chat/completions": Route("POST", openai_error, names_model=True),
    "/v1/completions": Route("POST", openai_error, names_model=True),
}
HEALTH = ("", "/", "/health")
MODELS = "/v1/models"


def application(gateway: Gateway, *, plain: bool) -> ASGIApp:
    """One door: HTTPS for everybody, or plain HTTP for this machine, with `/metrics`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if plain and not _is_local(scope):
            await _said(send, 403, scoring_error(403, "Forbidden", "Ask for localhost here."))
        elif path.startswith(BASE):
            await _endpoint(gateway, scope, receive, send, path[len(BASE) :])
        elif path == "/healthz":
            await _said(send, 200, b'{"status":"ok"}')
        elif path == "/metrics" and plain:
            text = metrics.exposition(gateway.stats()).encode()
            await _said(send, 200, text, metrics.CONTENT_TYPE.encode())
        else:
            text = f"There is nothing at {path}. Endpoints are below {BASE}NAME/."
            await _said(send, 404, scoring_error(404, "NotFound", text))

    return app


async def _endpoint(
    gateway: Gateway, scope: Scope, receive: Receive, send: Send, below: str
) -> None:
    """Answer one request of an endpoint, and note it."""
    name, slash, rest = below.partition("/")
    path = slash + rest
    call = Call(gateway, scope, receive, send, name, path, _shape(path))
    try:
        await _answer(call)
    except FineryError as error:
        if call.status:  # its head is sent: all that can be done is to break off
            call.failed, call.error = True, type(error).__name__
            return
        await call.refuse(error)
    except Exception as error:
        reference = uuid.uuid4().hex[:12]
        log.exception("defect %s at %s %s", reference, scope["method"], path)
        call.failed, call.error = True, type(error).__name__
        if not call.status:
            text = f"finery failed; the gateway's log holds the cause under {reference}."
            await call.whole(500, call.shape(500, "InternalServerError", text))
    finally:
        call.note()


async def _answer(call: Call) -> None:
    call.check_key(_table(call))
    method, route = call.scope["method"], ROUTES.get(call.path)
    if route is not None:
        _refuse_other(call, route.method)
        await _forwarded(call, route)
    elif call.path in HEALTH:
        _refuse_other(call, "GET")
        await _health(call)
    elif call.path == MODELS or call.path.startswith(f"{MODELS}/"):
        _refuse_other(call, "GET")
        content = model_list(_table(call), call.path.removeprefix(MODELS).removeprefix("/"))
        await call.whole(200, content)
    else:
        raise NotFoundError(f"The endpoint {call.endpoint} has no {method} {call.path}.")


async def _forwarded(call: Call, route: Route) -> None:
    gateway = call.gateway
    body = NO_BODY
    try:
        if route.method == "POST":
            body = await gateway.bodies.read(call.headers, call.receive)
        call.asked = time.perf_counter()
        said = await gateway.naming.read(body) if route.names_model else Named()
        table = _table(call)  # anew: a long body takes its time
        named = asked_for(table, call.header(b"azureml-model-deployment"), said.model)
        conversation = call.header(CONVERSATION.encode()) or said.conversation
        deployment = choose(table, named, conversation)
        if not named and route.method == "POST":
            copy(call, table, body)
        await forward(call, deployment, body, scored=route.scored)
    finally:
        gateway.bodies.release(body)


async def _health(call: Call) -> None:
    """Whether the endpoint has a replica that answers."""
    table = _table(call)
    deployment = choose(table, call.header(b"azureml-model-deployment"))
    call.gateway.places[call.endpoint, deployment.name].check(patient=False)
    call.deployment = deployment.name
    content = json.dumps({"status": "healthy", "deployment": deployment.name})
    await call.whole(200, content.encode())


def _table(call: Call) -> Table:
    table = call.gateway.tables.get(call.endpoint)
    if table is None:
        raise NotFoundError(f"There is no endpoint {call.endpoint}.")
    return table


def _refuse_other(call: Call, method: str) -> None:
    if call.scope["method"] != method:
        text = f"{call.path or '/'} is asked with {method}, not with {call.scope['method']}."
        raise MethodError(text, method)


def _shape(path: str) -> Shape:
    """The shape of errors that the clients of a path read."""
    if route := ROUTES.get(path):
        return route.shape
    return openai_error if path == "/v1" or path.startswith("/v1/") else scoring_error


def _is_local(scope: Scope) -> bool:
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    name = host if host.endswith(b"]") else host.rsplit(b":", 1)[0]
    return name.lower() in LOOPBACK


async def _said(send: Send, status: int, content: bytes, kind: bytes = JSON) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})

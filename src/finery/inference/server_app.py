"""The HTTP face of a replica: health, Azure's `/score`, OpenAI's `/v1`.

OpenAI's shapes: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from finery.errors import FineryError
from finery.inference.generate import Answer
from finery.inference.server_engine import Engine, Pieces
from finery.inference.server_request import ask_from_chat, asks_from_score

log = logging.getLogger("finery.replica")
T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


def create_app(engine: Engine, name: str, key: str = "") -> Starlette:
    """A replica that calls its model `name`; with a `key` every request must bear it."""
    app = Starlette(
        routes=[
            Route("/", _guarded(_health), methods=["GET"]),
            Route("/health", _guarded(_health), methods=["GET"]),
            Route("/v1/models", _guarded(_models), methods=["GET"]),
            Route("/score", _guarded(_score), methods=["POST"]),
            Route("/v1/chat/completions", _guarded(_chat), methods=["POST"]),
        ]
    )
    app.state.engine, app.state.name, app.state.key = engine, name, key
    app.state.since = int(time.time())
    return app


class _Gone(Exception):
    """The client closed the connection before it had its answer."""


def _guarded(handler: Handler) -> Handler:
    """Check the key, log the request in one line, and give errors OpenAI's shape."""

    async def handle(request: Request) -> Response:
        start = time.perf_counter()
        try:
            response = await _checked(handler, request)
        except FineryError as error:
            response = failure(400, str(error), "invalid_request_error")
        except _Gone:
            response = failure(499, "The client left.", "client_closed_request")
        if request.url.path not in ("/", "/health"):
            seconds = time.perf_counter() - start
            log.info(
                "%s %s %d %.2f s", request.method, request.url.path, response.status_code, seconds
            )
        return response

    return handle


async def _checked(handler: Handler, request: Request) -> Response:
    key = request.app.state.key
    given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    if key and not hmac.compare_digest(given.encode(), key.encode()):
        return failure(401, "The key of this replica is missing or wrong.", "invalid_api_key")
    return await handler(request)


def failure(status: int, message: str, code: str) -> JSONResponse:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return JSONResponse({"error": error}, status_code=status)


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "healthy", "model": request.app.state.name})


async def _models(request: Request) -> Response:
    state = request.app.state
    model = {"id": state.name, "object": "model", "created": state.since, "owned_by": "finery"}
    return JSONResponse({"object": "list", "data": [model]})


async def _body(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except (UnicodeDecodeError, ValueError) as error:
        raise FineryError(f"The request's body is not JSON: {error}.") from None


async def _score(request: Request) -> Response:
    engine: Engine = request.app.state.engine
    asks, many = asks_from_score(await _body(request))
    for ask in asks:  # every fault before the first answer
        engine.begin(ask).close()

    async def answers() -> list[dict[str, str]]:
        return [{"output": (await engine.answer(ask)).text} for ask in asks]

    rows = await _unless_gone(request, answers())
    return JSONResponse(rows if many else rows[0])


async def _chat(request: Request) -> Response:
    engine: Engine = request.app.state.engine
    body = await _body(request)
    ask = ask_from_chat(body)
    name = request.app.state.name
    if body.get("model") not in (None, name):
        text = f"No model is called {body['model']!r} here. There is: {name}."
        return failure(404, text, "model_not_found")
    if body.get("stream"):
        usage = bool((body.get("stream_options") or {}).get("include_usage"))
        events = _events(engine, engine.begin(ask), _envelope(name, "chat.completion.chunk"), usage)
        headers = {"cache-control": "no-cache"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)
    answer = await _unless_gone(request, engine.answer(ask))
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answer.text},
        "logprobs": None,
        "finish_reason": answer.finish_reason,
    }
    envelope = _envelope(name, "chat.completion")
    return JSONResponse({**envelope, "choices": [choice], "usage": _usage(answer)})


def _envelope(name: str, kind: str) -> dict[str, Any]:
    identity = f"chatcmpl-{uuid.uuid4().hex}"
    return {"id": identity, "object": kind, "created": int(time.time()), "model": name}


def _usage(answer: Answer) -> dict[str, int]:
    total = answer.prompt_tokens + answer.new_tokens
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.new_tokens,
        "total_tokens": total,
    }


async def _events(
    engine: Engine, made: Pieces, envelope: dict[str, Any], usage: bool
) -> AsyncIterator[str]:
    """Server-sent events: the role, the pieces, the reason of the end, `[DONE]`."""
    yield _event(envelope, {"role": "assistant", "content": ""})
    try:
        async with contextlib.aclosing(engine.pieces(made)) as pieces:
            async for piece in pieces:
                if isinstance(piece, str):
                    yield _event(envelope, {"content": piece})
                    continue
                yield _event(envelope, {}, piece.finish_reason)
                if usage:
                    last = {**envelope, "choices": [], "usage": _usage(piece)}
                    yield f"data: {json.dumps(last)}\n\n"
    except Exception as error:  # the status line is gone: the client learns it from the stream
        log.exception("an answer broke off")
        told = {"error": {"message": str(error), "type": "server_error", "code": None}}
        yield f"data: {json.dumps(told)}\n\n"
        return
    yield "data: [DONE]\n\n"


def _event(envelope: dict[str, Any], delta: dict[str, Any], reason: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return f"data: {json.dumps({**envelope, 'choices': [choice]})}\n\n"


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, cancelled as soon as the client closes the connection."""
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_departure(request))
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _Gone
        return task.result()
    finally:
        for pending in (task, left):
            pending.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

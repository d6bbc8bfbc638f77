"""One request answered: read, made, shaped, whole or as a stream."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from finery.errors import FineryError
from finery.inference.answering import Event, answers
from finery.inference.engine import EngineLostError
from finery.inference.protocol import begun
from finery.inference.protocol import openai_answers as shapes
from finery.inference.protocol.openai_answers import Answer, Usage
from finery.inference.protocol.reading import Wanted
from finery.inference.protocol.refusals import Refusal, refusal_of, refused
from finery.inference.server_begun import BegunAnswer
from finery.inference.server_gate import LEFT, USAGE, failure
from finery.inference.server_state import Replica, Voice
from finery.inference.server_stream import (
    EventStream,
    GoneError,
    after,
    body_of,
    closing_on_error,
    unless_gone,
)

log = logging.getLogger("finery.replica")

MODEL = "x-finery-model"  # what the answer calls the model, whatever the body says
ADAPTER = "x-finery-adapter"
_LOST = Refusal(499, "The client left.", "client_closed_request")


async def answer(request: Request) -> Response:
    """The answer to any of the routes in `reading.ROUTES`."""
    try:
        return await _answer(request)
    except Exception as error:
        return _failed(request, error)


def _failed(request: Request, error: Exception) -> Response:
    """What is said of an error."""
    if isinstance(error, GoneError):
        request.scope[LEFT] = True
        return failure(request, _LOST)
    if isinstance(error, EngineLostError):
        log.warning("%s", error)
        return failure(request, Refusal(503, str(error), "engine_lost"))
    if isinstance(error, FineryError):
        return failure(request, refusal_of(error))
    log.error("a request failed", exc_info=error)
    told = Refusal(500, "The replica failed; its log says why.", "internal_error")
    return failure(request, told)


async def _answer(request: Request) -> Response:
    replica: Replica = request.app.state.replica
    body = await body_of(request)
    named = request.headers.get(ADAPTER, "")
    voice = replica.voice(named)
    wanted = await _read(request, replica, body, voice)
    name, adapter = _names(request, replica, wanted, named)
    if replica.voice(adapter) is not voice:  # the body names an adapter with a renderer of its own
        voice = replica.voice(adapter)
        wanted = await _read(request, replica, body, voice)
    del body
    if adapter:
        wanted = replace(wanted, plans=tuple(_with(plan, adapter) for plan in wanted.plans))
    events = answers(replica.generate, wanted.plans, voice.words)
    if wanted.stream:
        return await _stream(request, wanted, name, events)

    def shaped(made: list[Answer], usage: Usage) -> Response:
        request.scope[USAGE] = usage
        headers = {
            "x-finery-prompt-tokens": str(usage.prompt),
            "x-finery-completion-tokens": str(usage.completion),
        }
        return JSONResponse(_whole(request.url.path, wanted, name, made, usage), headers=headers)

    if request.headers.get(begun.HEADER):
        return BegunAnswer(events, wanted, shaped, partial(_failed, request))
    async with aclosing(events):
        work = shapes.collected(events, wanted)
        return shaped(*await unless_gone(request.receive, work))


async def _read(request: Request, replica: Replica, body: bytes, voice: Voice) -> Wanted:
    reading = replica.reader.read(
        request.url.path, body, request.headers, voice.renderer, voice.limits
    )
    return await unless_gone(request.receive, reading)


def _with(plan: Any, adapter: str) -> Any:
    return replace(plan, generation=replace(plan.generation, adapter=adapter))


def _names(request: Request, replica: Replica, wanted: Wanted, adapter: str) -> tuple[str, str]:
    """What the answer calls its model, and the adapter that makes it; raises RefusedError.

    Behind a gateway headers say both; without them the body's model may be an adapter's name.
    """
    if given := request.headers.get(MODEL):
        return given, adapter
    if wanted.model in (None, "", replica.name):
        return replica.name, adapter
    if wanted.model in replica.adapters:
        return wanted.model, wanted.model
    known = ", ".join([replica.name, *sorted(replica.adapters)])
    text = f"No model is called {wanted.model[:100]!r} here. There is: {known}."
    raise refused(text, status=404, code="model_not_found", param="model")


async def _stream(
    request: Request, wanted: Wanted, name: str, events: AsyncGenerator[Event, None]
) -> Response:
    """The stream, once its first token is there: until then an error has a status of its own."""
    async with closing_on_error(events):
        first = await unless_gone(request.receive, anext(events))
    is_chat = request.url.path.endswith("/chat/completions")
    kind = "chat.completion.chunk" if is_chat else "text_completion"
    chunks = shapes.ChatChunks(wanted) if is_chat else shapes.CompletionChunks(wanted)

    def note(usage: Usage) -> None:
        request.scope[USAGE] = usage

    head = shapes.envelope(kind, name)
    parts = shapes.streamed(after(first, events), wanted, head, chunks, note)
    return EventStream(events, parts, {})


def _whole(path: str, wanted: Wanted, name: str, made: list[Answer], usage: Usage) -> Any:
    if path == "/score":
        if wanted.form == "texts":
            return {"output": [answer.text for answer in made]}
        rows = [{"output": answer.text} for answer in made]
        return rows if wanted.form == "many" else rows[0]
    is_chat = path.endswith("/chat/completions")
    choice = shapes.chat_choice if is_chat else shapes.completion_choice
    head = shapes.envelope("chat.completion" if is_chat else "text_completion", name)
    return {
        **head,
        "choices": [choice(answer, wanted) for answer in made],
        "usage": usage.shape(),
    }

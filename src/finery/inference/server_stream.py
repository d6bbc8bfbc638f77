"""Answers on their way to a client that may leave at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from finery.errors import FineryError
from finery.inference.protocol.openai_answers import sse
from finery.inference.protocol.refusals import Refusal, openai_shape, refused

log = logging.getLogger("finery.replica")
T = TypeVar("T")

MOST_BODY = 16 * 1024 * 1024  # bytes
MOST_DROPPED = 8 * MOST_BODY


class GoneError(Exception):
    """The client closed the connection before it had its answer."""


async def body_of(request: Request) -> bytes:
    """The request's body; raises RefusedError (413) when it is too large.

    No more than the limit is ever kept. The rest is read and dropped, up to a bound, because
    most clients hear an answer only once they have sent everything.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size <= MOST_BODY:
                parts.append(part)
            else:
                parts.clear()
            if size > MOST_DROPPED:
                break
    except ClientDisconnect:
        raise GoneError from None
    if size > MOST_BODY:
        text = f"The request's body is larger than {MOST_BODY >> 20} MiB."
        raise refused(text, status=413, code="request_too_large")
    return b"".join(parts)


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled as soon as the client closes the connection."""
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_departure(receive))
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise GoneError
        return task.result()
    finally:
        for pending in (task, left):
            pending.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events; when the client leaves, the source is closed at once."""

    media_type = "text/event-stream"

    def __init__(
        self,
        source: AsyncGenerator[Any, None],
        parts: AsyncIterator[bytes],
        headers: Mapping[str, str],
    ) -> None:
        self.source = source  # what the parts are made of
        self.parts = parts
        self.status_code = 200
        self.background = None
        kept = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        self.init_headers({**kept, **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the parts until the last, or until the client left."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            await send(start)
            await unless_gone(receive, self._send(send))
        except (GoneError, OSError):
            scope["finery.left"] = True
        finally:
            await self.source.aclose()

    async def _send(self, send: Send) -> None:
        try:
            async for part in self.parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except OSError:
            raise
        except Exception as error:  # the status is told: the client learns it from the stream
            last = sse(openai_shape(broken(error)))
            await send({"type": "http.response.body", "body": last, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def broken(error: Exception) -> Refusal:
    """What a client is told of an answer that broke off."""
    if isinstance(error, FineryError):
        log.warning("an answer broke off: %s", error)
        return Refusal(500, str(error), "answer_broke_off")
    log.error("an answer broke off", exc_info=error)
    return Refusal(500, "The replica failed; its log says why.", "internal_error")


async def after(first: T | None, rest: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """An item that was taken already, then the others."""
    if first is not None:
        yield first
    async for item in rest:
        yield item


@contextlib.asynccontextmanager
async def closing_on_error(source: AsyncGenerator[Any, None]) -> AsyncIterator[None]:
    """Close the source when what is done with it fails; after that it is another's to close."""
    try:
        yield
    except BaseException:
        await source.aclose()
        raise

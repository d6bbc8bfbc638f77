"""What every request to a replica passes: its key, its id, one line in the log, the counts."""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from finery.inference.protocol import reading
from finery.inference.protocol.openai_answers import Usage
from finery.inference.protocol.refusals import Refusal, azure_ai_shape, openai_shape
from finery.inference.server_begun import STATUS
from finery.inference.server_state import Replica

log = logging.getLogger("finery.replica")

REQUEST_ID = "x-request-id"
USAGE = "finery.usage"  # the scope's keys for what the gate tells of an answer
LEFT = "finery.left"
_PLAIN_ID = re.compile(r"[\w.:-]{1,128}")
_QUIET = ("/", "/health", "/metrics")
_AZURE_AI = ("/chat/completions", "/completions")


class Gate:
    """An ASGI app in front of the replica's routes."""

    def __init__(self, app: ASGIApp, replica: Replica) -> None:
        self.app = app
        self.replica = replica

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, if it may; count and log how it ended."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500
        given = Headers(scope=scope).get(REQUEST_ID, "")
        identity = given if _PLAIN_ID.fullmatch(given) else uuid.uuid4().hex

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = identity
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is None:
                await self.app(scope, receive, told)
            else:
                await failure(Request(scope, receive), refusal)(scope, receive, told)
        finally:
            self._note(scope, status, time.perf_counter() - start, identity)

    def _refusal(self, scope: Scope) -> Refusal | None:
        key = self.replica.key
        given = Headers(scope=scope).get("authorization", "").removeprefix("Bearer ").strip()
        if key and not hmac.compare_digest(given.encode(), key.encode()):
            text = "The key of this replica is missing or wrong."
            return Refusal(401, text, "invalid_api_key")
        if scope["path"] in reading.ROUTES and (fault := self.replica.fault()):
            return Refusal(503, f"This replica takes no requests: {fault}.", "unavailable")
        return None

    def _note(self, scope: Scope, status: int, seconds: float, identity: str) -> None:
        path, metrics = scope["path"], self.replica.metrics
        route = path if path in reading.ROUTES else "other"
        status = 499 if scope.get(LEFT) else scope.get(STATUS, status)
        metrics.requests.labels(route, str(status)).inc()
        if status < 300 and route != "other":
            metrics.seconds.labels(route).observe(seconds)
        if path in _QUIET and status < 400:
            return
        usage: Usage | None = scope.get(USAGE)
        tokens = f" prompt={usage.prompt} completion={usage.completion}" if usage else ""
        shown = path if path.isprintable() else ascii(path)
        log.info(
            "%s %s %d %.3f s id=%s%s",
            scope["method"],
            shown[:200],
            status,
            seconds,
            identity,
            tokens,
        )


def failure(request: Request, refusal: Refusal) -> Response:
    """A refusal in the shape of the door it came through."""
    shape: Any = azure_ai_shape if request.url.path in _AZURE_AI else openai_shape
    headers = {"retry-after": "1"} if refusal.status in (429, 503) else {}
    if refusal.status == 413:
        headers["connection"] = "close"  # the rest of the body is not read
    return JSONResponse(shape(refusal), refusal.status, headers)

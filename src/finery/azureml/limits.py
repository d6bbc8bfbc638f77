"""What a request body may be: refused before anything reads it.

Bodies that are data (blobs, MLflow artifacts) pass untouched; their own doors stream them.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from finery.azureml.errors import error_response

MAX_BYTES = 16 * 2**20
MAX_DEPTH = 64  # arrays and objects inside each other; the deepest body of the SDK has nine
STREAMED = ("/_blob", "/mlflow", "/studio/fine-tune")
_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def depth(body: bytes) -> int:
    """How deep arrays and objects lie inside each other in a JSON text."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return 0  # cannot be too deep, whatever it is
    level = deepest = 0
    for mark in _MARKS.finditer(body):
        if mark[0] in (b"[", b"{"):
            level += 1
            deepest = max(deepest, level)
        elif mark[0] in (b"]", b"}"):
            level -= 1
    return deepest


class BodyLimits:
    """Middleware: 413 for a body that is too long, 400 for one nested too deep."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body of an ordinary request, judge it, and hand it on."""
        if scope["type"] != "http" or scope["path"].startswith(STREAMED):
            await self.app(scope, receive, send)
            return
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if len(body) > MAX_BYTES or _announced(scope) > MAX_BYTES:
                text = f"The body is longer than {MAX_BYTES // 2**20} MiB; upload data as blobs."
                refusal = error_response(413, "RequestBodyTooLarge", text)
                await refusal(scope, receive, send)
                return
            if not message.get("more_body"):
                break
        if depth(bytes(body)) > MAX_DEPTH:
            text = f"The body nests arrays and objects more than {MAX_DEPTH} levels deep."
            await error_response(400, "UserError", text)(scope, receive, send)
            return
        await self.app(scope, _replay(bytes(body), receive), send)


def _announced(scope: Scope) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once, then whatever else the client says (that it went away)."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again

"""A whole answer whose head is sent with its first token (`finery.inference.protocol.begun`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from finery.inference.answering import Event
from finery.inference.protocol import begun
from finery.inference.protocol import openai_answers as shapes
from finery.inference.protocol.begun import Outcome
from finery.inference.protocol.openai_answers import Answer, Usage
from finery.inference.protocol.reading import Wanted
from finery.inference.server_stream import unless_gone

STATUS = "finery.status"  # the scope's key for a status that came after the head


class BegunAnswer(Response):
    """Makes the answer while it is sent: `shaped` gives its JSON, `failed` what an error says."""

    def __init__(
        self,
        events: AsyncGenerator[Event, None],
        wanted: Wanted,
        shaped: Callable[[list[Answer], Usage], Response],
        failed: Callable[[Exception], Response],
    ) -> None:
        self.events, self.wanted = events, wanted
        self.shaped, self.failed = shaped, failed
        self.background = None
        self.is_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head at the first token, and the rest when all is there."""
        usage = Usage(0, 0)
        try:
            async with aclosing(self.events):
                work = shapes.collected(self._announced(send), self.wanted)
                made, usage = await unless_gone(receive, work)
            said = self.shaped(made, usage)
        except Exception as error:  # whatever it is, it has an answer
            said = self.failed(error)
            if not self.is_begun:
                await said(scope, receive, send)
                return
            scope[STATUS] = said.status_code
        await self._begin(send)
        outcome = Outcome(said.status_code, usage.prompt, usage.completion)
        content = outcome.line() + bytes(said.body)
        await send({"type": "http.response.body", "body": content, "more_body": False})

    async def _announced(self, send: Send) -> AsyncGenerator[Event, None]:
        async for event in self.events:
            if not self.is_begun:
                await self._begin(send)
            yield event

    async def _begin(self, send: Send) -> None:
        if self.is_begun:
            return
        self.is_begun = True
        headers = [(b"content-type", b"application/json"), (begun.HEADER.encode(), b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

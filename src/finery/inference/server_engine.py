"""The model behind a replica: answers in pieces, a fixed number at a time, stopped when nobody
listens any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Generator
from threading import Event
from typing import Any

from finery.inference.decoding import context_length
from finery.inference.generate import Answer, stream
from finery.inference.open import Opened
from finery.inference.server_request import Ask

Pieces = Generator[str, None, Answer]


class Engine:
    """One loaded model; `at_once` answers are made at a time, the others wait in line."""

    def __init__(self, opened: Opened, at_once: int = 1) -> None:
        self.model: Any = opened.model
        self.renderer = opened.renderer
        self._places = asyncio.Semaphore(at_once)

    def begin(self, ask: Ask) -> Pieces:
        """The answer, not yet begun; raises FineryError for a prompt that has none."""
        limit = ask.max_new_tokens
        if limit is None:
            limit = context_length(self.model) or 4096  # the room of the prompt bounds it anyway
        return stream(
            self.model,
            self.renderer,
            ask.messages,
            max_new_tokens=limit,
            temperature=ask.temperature,
            top_p=ask.top_p,
            top_k=ask.top_k,
            seed=ask.seed,
            stop=ask.stop,
            tools=ask.tools,
        )

    async def pieces(self, made: Pieces) -> AsyncGenerator[str | Answer, None]:
        """Pieces of text as they come, the whole answer last.

        The model stops at its next token when the reader leaves.
        """
        await self._places.acquire()
        loop, left = asyncio.get_running_loop(), Event()
        ready: asyncio.Queue[str | Answer | BaseException] = asyncio.Queue()

        def tell(item: str | Answer | BaseException) -> None:
            loop.call_soon_threadsafe(ready.put_nowait, item)

        working = loop.run_in_executor(None, _make, made, tell, left)
        working.add_done_callback(lambda _: self._places.release())  # the model rests again
        try:
            while not isinstance(item := await ready.get(), Answer):
                if isinstance(item, BaseException):
                    raise item
                yield item
            yield item
        finally:
            left.set()

    async def answer(self, ask: Ask) -> Answer:
        """The whole answer; raises FineryError for a prompt that has none."""
        async with contextlib.aclosing(self.pieces(self.begin(ask))) as pieces:
            async for piece in pieces:
                if isinstance(piece, Answer):
                    return piece
        raise RuntimeError("an answer ended without its last piece")


def _make(made: Pieces, tell: Callable[[str | Answer | BaseException], None], left: Event) -> None:
    """Draw the pieces in this thread, from the first to the last or until the reader left."""
    try:
        with contextlib.closing(made):
            while not left.is_set():
                tell(next(made))
    except StopIteration as end:
        tell(end.value)
    except BaseException as error:
        tell(error)

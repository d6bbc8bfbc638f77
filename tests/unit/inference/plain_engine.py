"""transformers' own `generate` as an engine, one answer at a time.

It is what every other engine is compared with.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator
from typing import Any

from finery.errors import FineryError
from finery.inference.decoding import context_length
from finery.inference.engine import Generation, Token
from finery.inference.generate import token_ids


class PlainEngine:
    """One loaded model; one answer is made at a time, the others wait in line."""

    name = "transformers"
    features: frozenset[str] = frozenset()

    def __init__(self, model: Any, pad_id: int) -> None:
        self.model = model
        self.pad_id = pad_id
        self.precision = str(model.dtype).removeprefix("torch.")
        self.context = context_length(model) or 1 << 30
        self._turn = asyncio.Lock()

    async def generate(self, wanted: Generation) -> AsyncGenerator[Token, None]:
        """The tokens as they are made; raises FineryError for what this engine has not."""
        _refuse(wanted)
        settings = {
            "stops": wanted.stop_ids,
            "pad_id": self.pad_id,
            "max_new_tokens": wanted.max_new_tokens,
            "temperature": wanted.temperature,
            "seed": wanted.seed,
            "rows": [0],
            "top_p": wanted.top_p,
            "top_k": wanted.top_k,
        }
        loop, left = asyncio.get_running_loop(), threading.Event()
        ready: asyncio.Queue[int | BaseException | None] = asyncio.Queue()

        def work() -> None:
            def tell(item: int | BaseException | None) -> None:
                loop.call_soon_threadsafe(ready.put_nowait, item)

            try:
                with contextlib.closing(token_ids(self.model, wanted.prompt, settings)) as ids:
                    for token in ids:
                        tell(token)
                        if left.is_set():
                            break
                tell(None)
            except BaseException as error:
                tell(error)

        async with self._turn:
            working = loop.run_in_executor(None, work)
            try:
                while (item := await ready.get()) is not None:
                    if isinstance(item, BaseException):
                        raise item
                    yield Token(item)
            finally:
                left.set()
                await asyncio.shield(working)

    def health(self) -> str:
        """It lives as long as its process."""
        return ""

    async def close(self) -> None:
        """Nothing of its own is left to end."""


def _refuse(wanted: Generation) -> None:
    asked = {
        "logprobs": wanted.logprobs is not None,
        "schema": wanted.schema is not None,
        "penalties": bool(wanted.frequency_penalty or wanted.presence_penalty),
        "adapters": bool(wanted.adapter),
    }
    if missing := [name for name, given in asked.items() if given]:
        raise FineryError(f"The engine of this model has no {' and no '.join(missing)}.")

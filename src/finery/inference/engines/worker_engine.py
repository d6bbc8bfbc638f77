"""An engine in a process of its own, spoken to in JSON lines over its standard streams."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import threading
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finery.errors import FineryError
from finery.inference.engine import EngineLostError, Generation, Token
from finery.inference.engines.children import Child, script
from finery.inference.engines.limits import refuse_unfit

# What a reader gets: a token, the reason it is refused, or None at the end.
Item = Token | FineryError | None


@dataclass(eq=False)
class _Reader:
    """One answer under way, and the loop that waits for it."""

    loop: asyncio.AbstractEventLoop
    ready: asyncio.Queue[Item] = field(default_factory=asyncio.Queue)


class WorkerEngine:
    """The engine `name` whose worker is started by `command`; see the protocol `Engine`."""

    def __init__(self, name: str, command: Sequence[str], *, precision: str, context: int) -> None:
        """Start the worker and wait until it can answer; raises FineryError when it cannot."""
        self.name = name
        self.precision = precision
        self.context = context
        self.features: frozenset[str] = frozenset()
        self._numbers = itertools.count(1)
        self._readers: dict[int, _Reader] = {}
        self._gate = threading.Lock()  # between a worker that ends and a request that comes
        self._lost = ""
        self._started: Future[dict[str, Any]] = Future()
        self._child = Child(name, command, said=self._said, ended=self._end)
        self.features = frozenset(self._started.result()["features"])

    async def generate(self, wanted: Generation) -> AsyncGenerator[Token, None]:
        """The tokens as they are made; see the protocol."""
        refuse_unfit(self, wanted)
        number, reader = next(self._numbers), _Reader(asyncio.get_running_loop())
        self._ask({"add": number, **_message(wanted)}, number, reader)
        whole = False
        try:
            while (item := await reader.ready.get()) is not None:
                if isinstance(item, FineryError):
                    whole = True
                    raise item
                yield item
            whole = True
        finally:
            with self._gate:
                self._readers.pop(number, None)
            if not whole:
                with contextlib.suppress(EngineLostError):
                    self._ask({"cancel": number})

    def health(self) -> str:
        """Why it cannot answer any more; "" while it can."""
        return self._lost

    async def close(self) -> None:
        """End the worker; answers under way end with EngineLostError."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._gate:
            self._lost = self._lost or "it was closed"
        self._child.close()

    def _ask(self, message: dict[str, Any], number: int = 0, reader: _Reader | None = None) -> None:
        """Write one line; raises EngineLostError when nobody reads it any more."""
        with self._gate:
            if self._lost:
                raise EngineLostError(f"The {self.name} engine cannot answer: {self._lost}.")
            if reader is not None:
                self._readers[number] = reader
            self._child.write(json.dumps(message))

    def _said(self, line: str) -> None:
        """One line of the worker: that it is ready, or what a step made."""
        try:
            said = json.loads(line)
        except ValueError:  # a library's own print, before the worker moved its output away
            return
        if "ready" in said:
            self._started.set_result(said["ready"])
        self._deliver(said)

    def _deliver(self, said: dict[str, Any]) -> None:
        """Hand out one step: one call into each reader's loop for all of its tokens."""
        batches: dict[Any, list[tuple[_Reader, Item]]] = {}
        with self._gate:
            for number, item in _items(said):
                if reader := self._readers.get(number):
                    batches.setdefault(reader.loop, []).append((reader, item))
        for loop, batch in batches.items():
            with contextlib.suppress(RuntimeError):  # that loop is closed, its readers with it
                loop.call_soon_threadsafe(_put, batch)

    def _end(self, reason: str) -> None:
        if not self._started.done():
            text = f"The {self.name} engine did not start: {reason}"
            self._started.set_exception(FineryError(text))
        with self._gate:
            self._lost = self._lost or reason
            readers, self._readers = list(self._readers.values()), {}
        error = EngineLostError(f"The {self.name} engine ended under this answer: {self._lost}")
        for reader in readers:
            with contextlib.suppress(RuntimeError):
                reader.loop.call_soon_threadsafe(reader.ready.put_nowait, error)


def worker_command(python: Path, name: str, options: dict[str, Any]) -> list[str]:
    """What starts one of our scripts with the Python of another environment.

    `-I` keeps PYTHONPATH and this folder out of its imports: here `openvino` would be found
    twice.
    """
    return [str(python), "-I", script(name), json.dumps(options)]


def threads() -> int:
    """How many threads an engine may take: OMP_NUM_THREADS, or 0 for its own choice."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() else 0


def _message(wanted: Generation) -> dict[str, Any]:
    return {
        "prompt": wanted.prompt,
        "max_new_tokens": wanted.max_new_tokens,
        "stop_ids": wanted.stop_ids,
        "temperature": wanted.temperature,
        "top_p": wanted.top_p,
        "top_k": wanted.top_k,
        "seed": wanted.seed,
        "frequency_penalty": wanted.frequency_penalty,
        "presence_penalty": wanted.presence_penalty,
        "logprobs": wanted.logprobs,
        "schema": wanted.schema,
    }


def _items(said: dict[str, Any]) -> list[tuple[int, Item]]:
    items: list[tuple[int, Item]] = []
    for number, token, *scores in said.get("tokens", ()):
        logprob, likeliest = scores or (None, ())
        items.append((number, Token(token, logprob, tuple((i, p) for i, p in likeliest))))
    items += [(number, FineryError(reason)) for number, reason in said.get("refused", ())]
    items += [(number, None) for number in said.get("ended", ())]
    return items


def _put(batch: list[tuple[_Reader, Item]]) -> None:
    for reader, item in batch:
        reader.ready.put_nowait(item)

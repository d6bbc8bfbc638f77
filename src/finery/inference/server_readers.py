"""Processes that read requests: parse, check, render, tokenise, away from the event loop.

Python runs one thread at a time, so in a thread a slow template or a body of many megabytes
would hold up every answer of the replica; and no thread can be ended. A reader can. What a slow
request computes gets a low priority and another reader takes the place; when its time is
up, the request is refused. Time is of computing: on a busy machine a quick request lasts too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from finery.errors import FineryError
from finery.inference.answering import Limits
from finery.inference.protocol import reading, refusals
from finery.inference.protocol.reading import Wanted
from finery.inference.protocol.refusals import refused
from finery.inference.server_priority import USUAL, lower, lower_threads, set_session
from finery.inference.server_reading import FRAME

if TYPE_CHECKING:
    from finery.chat.render import Renderer

log = logging.getLogger("finery.replica")

READERS = 2  # that are free of slow requests
MOST_READERS = 5
NICE = 5  # of a reader: the engine goes before it
SLOW = 0.1  # seconds of computing from which a request is a slow one
LARGE = 64 * 1024  # bytes of a body; one such at a time, so that the others find a reader
SECONDS = 10.0  # of computing that one request may take
WAITED = 6  # times as many seconds by the clock
START_SECONDS = 120.0
_SECRETS = ("FINERY_REPLICA_KEY",)


class Reader(Protocol):
    """Makes plans of requests."""

    async def read(
        self, route: str, body: bytes, headers: Mapping[str, str], renderer: str, limits: Limits
    ) -> Wanted:
        """The request, with the renderer of that folder; raises FineryError."""
        ...

    async def close(self) -> None:
        """End what it started."""
        ...


@dataclass(frozen=True)
class OwnReader:
    """Reads in this process, with one renderer; for tests."""

    renderer: Renderer

    async def read(
        self, route: str, body: bytes, headers: Mapping[str, str], renderer: str, limits: Limits
    ) -> Wanted:
        """The request; see `Reader`."""
        return reading.read(route, body, headers, self.renderer, limits)

    async def close(self) -> None:
        """Nothing was started."""


class _LostError(Exception):
    """The reading process ended under a request."""


@dataclass
class _Process:
    """One reading process; a request at a time."""

    process: asyncio.subprocess.Process
    slow: bool = False  # its request computes with a low priority
    late: bool = False  # its request has had its time
    spent: bool = False  # nothing raises it again

    def computed(self) -> float:
        """Seconds of computing so far; minus infinity when it has ended."""
        try:
            times = psutil.Process(self.process.pid).cpu_times()
        except psutil.Error:
            return -math.inf
        return times.user + times.system

    async def ask(self, head: dict[str, Any], body: bytes = b"") -> dict[str, Any]:
        """What it says to one request; raises _LostError when it ends."""
        into, out = self.process.stdin, self.process.stdout
        if into is None or out is None:
            raise _LostError
        data = json.dumps(head).encode()
        try:
            into.write(FRAME.pack(len(data), len(body)) + data)
            into.write(body)
            await into.drain()
            length, _ = FRAME.unpack(await out.readexactly(FRAME.size))
            return json.loads(await out.readexactly(length))
        except (OSError, asyncio.IncompleteReadError) as error:
            raise _LostError from error

    async def end(self) -> None:
        """End it, whatever it is doing."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


class ReaderPool:
    """Reading processes; more of them while requests wait, each with a time limit."""

    def __init__(self, renderer: str, seconds: float = SECONDS) -> None:
        self.renderer = renderer
        self.seconds = seconds
        self._free: asyncio.LifoQueue[_Process] = asyncio.LifoQueue()
        self._large = asyncio.Semaphore(1)
        self._count = 0
        self._slow = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def start(self) -> None:
        """Start the first readers; raises FineryError when none comes up."""
        await asyncio.gather(*(self._grow() for _ in range(READERS)))

    async def read(
        self, route: str, body: bytes, headers: Mapping[str, str], renderer: str, limits: Limits
    ) -> Wanted:
        """The request; see `Reader`. One that takes too long is refused, and its reader ended."""
        head = {
            "route": route,
            "headers": {name: headers[name] for name in reading.HEADERS if name in headers},
            "renderer": renderer,
            "limits": {**asdict(limits), "features": sorted(limits.features)},
            "seconds": self.seconds,
        }
        async with self._large if len(body) > LARGE else contextlib.nullcontext():
            # The client may leave; the reader finishes what it began all the same.
            said = await asyncio.shield(self._kept(self._one(head, body)))
        if "refusal" in said:
            raise refusals.RefusedError(refusals.from_json(said["refusal"]))
        if "wanted" not in said:
            raise RuntimeError("a request could not be read; the reader's log says why")
        return reading.from_json(said["wanted"])

    async def warm(self, renderer: str) -> None:
        """Have a free reader load another renderer before its first request."""
        head = {"route": "", "renderer": renderer, "seconds": START_SECONDS}
        said = await asyncio.shield(self._kept(self._one(head, b"")))
        if "refusal" in said:
            raise refusals.RefusedError(refusals.from_json(said["refusal"]))

    async def close(self) -> None:
        """End every reader."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while not self._free.empty():
            await self._free.get_nowait().end()

    def _kept(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A request that nobody waits for any more may fail unseen.
        task.add_done_callback(lambda one: one.cancelled() or one.exception())
        return task

    async def _one(self, head: dict[str, Any], body: bytes) -> dict[str, Any]:
        """One request, on a second reader when the first is lost under it."""
        for _ in range(2):
            reader = await self._taken()
            watching = asyncio.create_task(self._watch(reader, head["seconds"]))
            try:
                async with asyncio.timeout(WAITED * head["seconds"]):
                    said = await reader.ask(head, body)
            except (TimeoutError, _LostError) as error:
                await self._replaced(reader)
                if reader.late or isinstance(error, TimeoutError):
                    text = f"The request could not be rendered within {head['seconds']:g} s: the "
                    raise refused(
                        text + "conversation is too much for the model's chat template.",
                        code="rendering_too_slow",
                    ) from None
            except BaseException:
                await self._replaced(reader, grow=False)
                raise
            else:
                if reader.slow:
                    self._kept(self._restored(reader))
                else:
                    self._free.put_nowait(reader)
                return said
            finally:
                watching.cancel()
        raise refused("The request ended the process that read it.", code="unreadable")

    async def _watch(self, reader: _Process, seconds: float) -> None:
        """Make room for the others once a request turns out slow; end what computes too long."""
        before = reader.computed()
        while not reader.late:
            await asyncio.sleep(SLOW)
            computed = reader.computed() - before
            if computed >= seconds:
                reader.late = True
                await reader.end()
            if computed < SLOW or reader.slow:
                continue
            reader.slow = True
            self._slow += 1
            self._refill()
            reader.spent = not await lower_threads(reader.process.pid)

    def _refill(self) -> None:
        """Start a reader for each that is missing."""
        wanted = min(READERS + self._slow, MOST_READERS)
        if self._count < wanted and not self._closed:
            self._kept(self._grow())

    async def _taken(self) -> _Process:
        self._refill()
        try:
            async with asyncio.timeout(START_SECONDS):
                return await self._free.get()
        except TimeoutError:
            text = "No process could be started to read the request."
            raise refused(text, status=503, code="no_reader") from None

    async def _replaced(self, reader: _Process, *, grow: bool = True) -> None:
        self._count -= 1
        self._slow -= reader.slow
        await reader.end()
        if grow:
            self._refill()

    async def _restored(self, reader: _Process) -> None:
        """Free one whose slow request is over: its next one computes in another thread."""
        if reader.spent:
            await self._replaced(reader)
            return
        try:
            await set_session(reader.process.pid, USUAL)
        except asyncio.CancelledError:  # the pool ends
            await self._replaced(reader, grow=False)
            raise
        reader.slow = False
        self._slow -= 1
        self._free.put_nowait(reader)

    async def _grow(self) -> None:
        """Start one reader; it takes requests once it has loaded the renderer."""
        self._count += 1
        reader = await _begun()
        try:
            await lower(reader.process.pid, NICE)
            async with asyncio.timeout(START_SECONDS):
                said = await reader.ask({"route": "", "renderer": self.renderer, "seconds": 0})
            if "refusal" in said:
                raise refusals.RefusedError(refusals.from_json(said["refusal"]))
        except BaseException as error:
            await self._replaced(reader, grow=False)
            if isinstance(error, TimeoutError | _LostError):
                raise FineryError("The process that reads requests did not start.") from error
            raise
        self._free.put_nowait(reader)


async def _begun() -> _Process:
    """A new process; ended again when nobody wants it any more."""
    environment = {name: v for name, v in os.environ.items() if name not in _SECRETS}
    environment |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "finery.inference.server_reading"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    )
    try:
        return _Process(await asyncio.shield(starting))
    except asyncio.CancelledError:
        await _Process(await starting).end()
        raise

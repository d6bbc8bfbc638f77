"""What routing needs of a body: the model that it names, and whose conversation it belongs to.

A long body is parsed by a process beside the gateway: parsing takes the interpreter for itself,
and the requests of others would wait. The process answers one body at a time; it is
`python -m finery.endpoints.gateway.naming`, told a length (8 bytes) and a body, and says a
length and a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finery.endpoints.gateway.bodies import Body
from finery.errors import FineryError
from finery.inference.server_priority import lower
from finery.workspace.errors import UnavailableError

SHORT = 32 * 2**10  # bytes that are parsed in well under a millisecond
NICE = 10  # the requests of others come first
PATIENCE = 20.0  # seconds for the longest body
CONVERSATION = "x-conversation-id"  # the header


@dataclass(frozen=True)
class Named:
    """What a body says of itself; `model` is whatever JSON it is."""

    model: Any = None
    conversation: str = ""


def named(body: bytes) -> Named:
    """What an OpenAI body says; raises FineryError when it is no JSON object."""
    try:
        found = json.loads(body)
    except RecursionError:
        text = "The request's body nests arrays and objects too deep to be read."
        raise FineryError(text) from None
    except (UnicodeDecodeError, ValueError) as error:
        raise FineryError(f"The request's body is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise FineryError("The request's body is no JSON object.")
    return Named(found.get("model"), _conversation(found))


def _conversation(body: Mapping[str, Any]) -> str:
    """The conversation's own id before the user's: OpenAI's `metadata` and `user`."""
    metadata = body.get("metadata")
    given = metadata.get("conversation_id") if isinstance(metadata, dict) else None
    for value in (given, body.get("user")):
        if isinstance(value, str) and value:
            return value
    return ""


@dataclass
class Naming:
    """Reads bodies: short ones here, long ones beside."""

    _process: asyncio.subprocess.Process | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def read(self, body: Body) -> Named:
        """What the body says of itself; raises FineryError for one that cannot be read."""
        if body.size <= SHORT:
            return named(body.whole())
        async with self._turn:
            try:
                async with asyncio.timeout(PATIENCE):
                    answer = await self._asked(body)
            except BaseException as error:  # a process in the middle of a body is of no use
                await self.close()
                if not isinstance(error, TimeoutError | OSError | EOFError):
                    raise
                text = "The request's body could not be read in time. Try again."
                raise UnavailableError(text) from None
        if "error" in answer:
            raise FineryError(answer["error"])
        return Named(**answer)

    async def close(self) -> None:
        """End the process beside."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def _asked(self, body: Body) -> dict[str, Any]:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "finery.endpoints.gateway.naming"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            await lower(process.pid, NICE, session=NICE)
        assert process.stdin and process.stdout  # noqa: S101 - both are pipes
        process.stdin.write(body.size.to_bytes(8, "big"))
        async for part in body.pieces():
            process.stdin.write(part)
            await process.stdin.drain()
        length = int.from_bytes(await process.stdout.readexactly(8), "big")
        return json.loads(await process.stdout.readexactly(length))


def main() -> None:
    """Answer bodies from standard input until it ends."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the gateway still needs us while it drains
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while len(head := source.read(8)) == 8:
        try:
            answer = vars(named(source.read(int.from_bytes(head, "big"))))
        except FineryError as error:
            answer = {"error": str(error)}
        text = json.dumps(answer).encode()
        sink.write(len(text).to_bytes(8, "big") + text)
        sink.flush()


if __name__ == "__main__":
    main()

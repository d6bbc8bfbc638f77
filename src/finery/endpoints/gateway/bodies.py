"""The body of a request: read whole, in time, and never more of it than is taken.

A body stays in the pieces in which it came: joining many megabytes would hold up everybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from starlette.types import Receive

from finery.endpoints.gateway.pacing import SHORT, Pace
from finery.endpoints.gateway.refusals import (
    BodyTooLongError,
    ClientLeftError,
    OverloadedError,
    SlowSenderError,
)

MOST = 16 * 2**20  # bytes of one body
MOST_TOGETHER = 256 * 2**20  # bytes of all bodies that are held at a time
REFUSED = 2**20  # bytes that a refused body counts for: its beginning comes all the same
SECONDS = 60.0  # in which a body must have come


@dataclass(frozen=True)
class Body:
    """What a client sent."""

    parts: tuple[bytes, ...] = ()
    size: int = 0  # bytes of all of them

    @property
    def is_short(self) -> bool:
        """Whether it can be handled in one go."""
        return self.size <= SHORT

    def whole(self) -> bytes:
        """In one piece; for short ones."""
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Part by part."""
        for part in self.parts:
            yield part


NO_BODY = Body()


def body_of(content: bytes) -> Body:
    """A body that is here already."""
    return Body((content,), len(content))


@dataclass
class Bodies:
    """How much of the memory bodies may take is taken, and how fast long ones come."""

    held: int = 0
    most: int = MOST
    seconds: float = SECONDS
    pace: Pace = field(default_factory=Pace)

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> Body:
        """The whole body, counted until `release`.

        Raises BodyTooLongError as soon as that is known, SlowSenderError, OverloadedError and
        ClientLeftError.
        """
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self.most:
            await asyncio.sleep(self._wait(REFUSED))  # who tries again and again waits in line
            raise self._too_long()
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeftError("The client left.")
                    part, more = message.get("body", b""), message.get("more_body", False)
                    self._hold(len(part))
                    size += len(part)
                    parts.append(part)
                    if size > self.most:
                        raise self._too_long()
                    if size > SHORT:  # nothing more is read meanwhile
                        await asyncio.sleep(self._wait(len(part)))
        except BaseException as error:
            self.held -= size
            if not isinstance(error, TimeoutError):
                raise
            text = f"The request's body did not come within {self.seconds:g} seconds."
            raise SlowSenderError(text) from None
        return Body(tuple(parts), size) if size > SHORT else body_of(b"".join(parts))

    def release(self, body: Body) -> None:
        """The body is needed no more."""
        self.held -= body.size

    def _wait(self, size: int) -> float:
        return self.pace.wait(size, asyncio.get_running_loop().time())

    def _hold(self, size: int) -> None:
        if self.held + size > MOST_TOGETHER:
            text = "The gateway holds as many long requests as it can. Try again in a moment."
            raise OverloadedError(text)
        self.held += size

    def _too_long(self) -> BodyTooLongError:
        return BodyTooLongError(f"The body is longer than {self.most / 2**20:g} MiB.")

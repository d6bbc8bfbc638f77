"""The body of a request: read whole, in time, and never more of it than is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import Receive

from finery.endpoints.gateway.refusals import (
    BodyTooLongError,
    ClientLeftError,
    OverloadedError,
    SlowSenderError,
)

MOST = 16 * 2**20  # bytes of one body
MOST_TOGETHER = 256 * 2**20  # bytes of all bodies that are held at a time
SECONDS = 60.0  # in which a body must have come


@dataclass
class Bodies:
    """How much of the memory bodies may take is taken."""

    held: int = 0
    most: int = MOST
    seconds: float = SECONDS

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """The whole body, counted until `release`.

        Raises BodyTooLongError as soon as that is known, SlowSenderError, OverloadedError and
        ClientLeftError.
        """
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self.most:
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
        except BaseException as error:
            self.held -= size
            if not isinstance(error, TimeoutError):
                raise
            text = f"The request's body did not come within {self.seconds:g} seconds."
            raise SlowSenderError(text) from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def release(self, body: bytes) -> None:
        """The body is needed no more."""
        self.held -= len(body)

    def _hold(self, size: int) -> None:
        if self.held + size > MOST_TOGETHER:
            text = "The gateway holds as many long requests as it can. Try again in a moment."
            raise OverloadedError(text)
        self.held += size

    def _too_long(self) -> BodyTooLongError:
        return BodyTooLongError(f"The body is longer than {self.most / 2**20:g} MiB.")

"""Connections of clients: how long they may take, and how much of an answer is kept for them.

What a client is too slow to read waits in the connection up to `BUFFER` bytes; beyond that the
replica's answer waits with it, until the client has read or its time is over.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from finery.endpoints.gateway.pacing import Pace

HEAD_SECONDS = 15.0  # in which the head of a request must have come, from the connection on
READ_SECONDS = 30.0  # in which a client must read what fills its connection
BUFFER = 256 * 2**10  # bytes of answers that wait in a connection
LONGEST_HEAD = 64 * 2**10  # bytes of a request before its body

_LATE = b'{"error": {"code": "RequestTimeout", "message": "The request did not come in time."}}'
_LONG = b'{"error": {"code": "RequestHeadTooLarge", "message": "The headers are too long."}}'

_DROPPED = Pace()  # bodies whose requests were answered before their end

Protocol: Any = AutoHTTPProtocol  # httptools' where that is installed, h11's otherwise


class PatientProtocol(Protocol):
    """uvicorn's protocol, with an end to its patience."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A client is there."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=BUFFER)
        self._head: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """A part of a request: the head must be complete soon, the body is read elsewhere."""
        super().data_received(data)
        if self._is_asked():
            self._head_bytes = 0
            self._forget("_head")
            return
        self._expect_head()
        if self._discards():
            self._drop(len(data))
            return
        self._head_bytes += len(data)
        if self._head_bytes > LONGEST_HEAD:
            self._refuse(b"431 Request Header Fields Too Large", _LONG)

    def on_message_complete(self) -> None:
        """The last byte of a body has come, read or not."""
        if self.cycle is not None:
            self.cycle.more_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is written: what a client does not take is not kept for ever."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._end_soon()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing more was asked."""
        super().timeout_keep_alive_handler()
        self._end_soon()

    def pause_writing(self) -> None:
        """The client reads slower than its answer comes."""
        super().pause_writing()
        self._reading = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        self._forget("_reading")

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        super().connection_lost(exc)
        self._forget("_head")
        self._forget("_reading")

    def _is_asked(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _discards(self) -> bool:
        """Whether the rest of a body comes whose request was answered before its end."""
        return self.cycle is not None and self.cycle.more_body

    def _drop(self, size: int) -> None:
        """Take the rest slowly: it comes until it is over, or a head is waited for no longer.

        Closing at once would take the refusal from a client that reads once it has sent all.
        """
        self.flow.pause_reading()
        self.loop.call_later(_DROPPED.wait(size, self.loop.time()), self._go_on)

    def _go_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _expect_head(self) -> None:
        if self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _too_late(self) -> None:
        self._head = None
        if self._is_asked() or self.transport.is_closing():
            return
        if self._head_bytes:
            self._refuse(b"408 Request Timeout", _LATE)
        else:
            self.transport.close()

    def _refuse(self, status: bytes, content: bytes) -> None:
        if self.transport.is_closing():
            return
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
        self.transport.write(head % (status, len(content)))
        self.transport.write(b"connection: close\r\n\r\n" + content)
        self.transport.close()
        self._end_soon()

    def _end_soon(self) -> None:
        """A closed connection still waits for its reader; not longer than this."""
        self.loop.call_later(READ_SECONDS, self.transport.abort)

    def _forget(self, name: str) -> None:
        if timer := getattr(self, name):
            timer.cancel()
            setattr(self, name, None)

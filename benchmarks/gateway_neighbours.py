"""Callers who are a burden to others; `python gateway_neighbours.py KIND HOST PORT PATH KEY`.

A process of its own that stands for other machines: its bytes are made before it begins, it
does nothing but send them, and it gives way to whatever else wants a processor.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

BODY = {"model": "bench", "messages": [{"role": "user", "content": "Hello there. " * 20}]}
PIECE = 256 * 1024  # bytes that are sent at once
SLOW = "slow"  # the message over which the benchmark's template takes its time


@dataclass(frozen=True)
class Request:
    """What is sent, over and over: a body's beginning, then one piece again and again."""

    body: bytes
    again: bytes = b""
    times: int = 0
    announced: bool = True

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.body) + self.times * len(self.again)


def requests() -> dict[str, Request]:
    """By kind."""
    piece = b"x" * PIECE
    chunk = b"%x\r\n%b\r\n" % (PIECE, piece)
    deep = b'{"model": "bench", "messages": '
    slow = {**BODY, "messages": [{"role": "user", "content": SLOW}], "max_tokens": 4}
    return {
        "long bodies": Request(b"", piece, 400),
        "unannounced bodies": Request(b"", chunk, 400, announced=False),
        "deep bodies": Request(deep, b"[" * PIECE, 32),
        "long messages": Request(long_message(1_000_000)),
        "slow templates": Request(json.dumps(slow).encode()),
    }


def long_message(size: int) -> bytes:
    """A body of this many bytes that a gateway must pass on, and a replica refuses."""
    messages = [{"role": "user", "content": "x" * size}]
    return json.dumps({**BODY, "messages": messages}).encode()


HELD = ("slow senders", "slow readers")  # kinds that hold connections and do nothing


def main() -> None:
    """Be a burden until killed."""
    kind, host, port, path, key = sys.argv[1:]
    give_way()
    address = (host, int(port))
    lines = [f"POST {path} HTTP/1.1", f"host: {host}:{port}", f"authorization: Bearer {key}"]
    head = "\r\n".join([*lines, "content-type: application/json", ""]).encode()
    if kind in HELD:
        held = [hold(kind, address, head) for _ in range(50)]
        time.sleep(3600)
        assert held
    request = requests()[kind]
    length = b"content-length: %d" % request.size
    head += (length if request.announced else b"transfer-encoding: chunked") + b"\r\n\r\n"
    while True:
        with contextlib.suppress(ConnectionError):
            status = send(address, head, request)
            assert status in (b"200", b"400", b"413"), status


def give_way() -> None:
    """Take a processor only while nothing else wants it, as far as the system allows that."""
    with contextlib.suppress(AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):  # Linux may share out among sessions first
        Path("/proc/self/autogroup").write_text("19", encoding="ascii")


def send(address: tuple[str, int], head: bytes, request: Request) -> bytes:
    """One request, given up as soon as it is answered; the status that the answer has."""
    with socket.create_connection(address) as connection:
        connection.sendall(head + request.body)
        for _ in range(request.times):
            left = memoryview(request.again)
            while left:
                readable, _, _ = select.select([connection], [connection], [])
                if readable:
                    return connection.recv(4096)[9:12]
                left = left[connection.send(left, socket.MSG_DONTWAIT) :]
        if not request.announced:
            connection.sendall(b"0\r\n\r\n")
        return connection.recv(4096)[9:12]


def hold(kind: str, address: tuple[str, int], head: bytes) -> socket.socket:
    """A connection whose request is sent in part, or whose answer is not read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(address)
    answer = json.dumps({**BODY, "max_tokens": 4000, "stream": True}).encode()
    body = answer if kind == "slow readers" else b""
    connection.sendall(head + b"content-length: %d\r\n\r\n" % (len(body) or 1000) + body)
    return connection


if __name__ == "__main__":
    main()

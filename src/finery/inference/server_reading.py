"""The process that reads requests for a replica; `finery.inference.server_readers` starts it.

It takes frames from standard input (lengths of two parts, a JSON head, the request's body) and
gives back frames of JSON, until its input ends. Requests are read in a thread: one that turns out
slow has its thread lowered from outside, and the next request is read in another thread.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import struct
import sys
import threading
from typing import TYPE_CHECKING, Any, BinaryIO

from finery.errors import FineryError
from finery.inference.answering import Limits
from finery.inference.engines.stub import open_renderer
from finery.inference.protocol import reading, refusals

if TYPE_CHECKING:
    from finery.chat.render import Renderer

log = logging.getLogger("finery.replica")

FRAME = struct.Struct(">II")
Frame = tuple[dict[str, Any], bytes]
MEMORY = 4 << 30  # bytes of addresses; what a template may blow up


def main() -> None:
    """Read requests from standard input until it ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints goes to the log
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    left: list[Frame] = []
    renderers: dict[str, Renderer] = {}
    while True:
        thread = threading.Thread(target=_serve, args=(out, renderers, left))
        thread.start()
        thread.join()
        if not left:
            return


def _serve(out: BinaryIO, renderers: dict[str, Renderer], left: list[Frame]) -> None:
    """Read requests until the input ends, or until one comes to a thread that was lowered."""
    usual = _priority()
    while frame := left.pop() if left else _frame(sys.stdin.buffer):
        if _priority() > usual:
            left.append(frame)
            return
        head, body = frame
        # The replica ends a reader that is late; should it be gone itself, this does. By the
        # clock of computing: SIGPROF.
        signal.setitimer(signal.ITIMER_PROF, 2 * head["seconds"])
        said = json.dumps(_said(head, body, renderers)).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        out.write(FRAME.pack(len(said), 0) + said)
        out.flush()


def _priority() -> int:
    """Of this thread on Linux, of the process elsewhere."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def _frame(source: BinaryIO) -> Frame | None:
    start = source.read(FRAME.size)
    if len(start) < FRAME.size:
        return None
    lengths = FRAME.unpack(start)
    head, body = (source.read(length) for length in lengths)
    return (json.loads(head), body) if len(body) == lengths[1] else None


def _said(head: dict[str, Any], body: bytes, renderers: dict[str, Renderer]) -> dict[str, Any]:
    try:
        place = head["renderer"]
        if place not in renderers:
            renderers[place] = open_renderer(place)
        if not head["route"]:
            return {}
        given = head["limits"]
        limits = Limits(
            given["context"],
            frozenset(given["features"]),
            tuple(given["stop_ids"]),
            given["engine"],
        )
        wanted = reading.read(head["route"], body, head["headers"], renderers[place], limits)
        return {"wanted": reading.to_json(wanted)}
    except FineryError as error:
        return {"refusal": refusals.to_json(refusals.refusal_of(error))}
    except MemoryError:
        told = refusals.Refusal(400, "The request takes too much memory to render.", "too_large")
        return {"refusal": refusals.to_json(told)}
    except Exception:
        log.exception("a request could not be read")
        return {}


if __name__ == "__main__":
    main()

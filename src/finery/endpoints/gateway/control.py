"""The gateway's control socket: what the service tells it, and asks of it.

A Unix socket in a folder that its owner alone can enter. One line is asked, one line of JSON
is answered, and the connection ends: `reload` (answered once the tables have been read anew)
and `stats`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from finery.endpoints.gateway.addresses import Addresses, addresses, folder_of
from finery.endpoints.gateway.counts import Stats, read_stats
from finery.workspace.errors import UnavailableError
from finery.workspace.place import Workspace

if TYPE_CHECKING:  # the service tells a gateway, and needs nothing of it
    from finery.endpoints.gateway.state import Gateway

__all__ = ["Addresses", "addresses", "reload", "stats"]

log = logging.getLogger("finery.endpoints")

SOCKET = "control.sock"
PATIENCE = 1.0  # seconds in which a gateway answers
LONGEST_PATH = 100  # of a socket; the system allows 103 bytes on macOS, 107 on Linux


def reload(workspace: Workspace) -> bool:
    """Let the gateway read its tables anew, and wait until it has.

    False, and a line in the log, when none answers within a second: it reads everything when it
    starts, and looks by itself four times a second.
    """
    try:
        _ask(workspace, "reload")
    except UnavailableError as error:
        log.info("the gateway was not told of a change: %s", error)
        return False
    return True


def stats(workspace: Workspace) -> Stats | None:
    """What the gateway has counted since it started; None when none answers."""
    try:
        return read_stats(_ask(workspace, "stats"))
    except UnavailableError as error:
        log.info("the gateway was not asked for its counts: %s", error)
        return None


def _ask(workspace: Workspace, what: str) -> dict[str, Any]:
    try:
        with (
            _address(folder_of(workspace)) as address,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection,
        ):
            connection.settimeout(PATIENCE)
            connection.connect(address)
            connection.sendall(f"{what}\n".encode())
            with connection.makefile("rb") as answer:
                said = json.loads(answer.readline() or b"{}")
    except (OSError, ValueError) as error:
        raise UnavailableError(f"The gateway does not answer ({error}).") from None
    if "error" in said or not said:
        raise UnavailableError(f"The gateway answers: {said.get('error', 'nothing')}.")
    return said


@contextlib.contextmanager
def _address(folder: Path) -> Iterator[str]:
    """The socket's path; a short way to it where its own name is too long for a socket."""
    path = str(folder / SOCKET)
    if len(os.fsencode(path)) <= LONGEST_PATH:
        yield path
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{handle}/{SOCKET}"
    finally:
        os.close(handle)


def listen(folder: Path) -> socket.socket:
    """The socket itself, in place of one that an earlier gateway left."""
    (folder / SOCKET).unlink(missing_ok=True)
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _address(folder) as address:
        found.bind(address)
    (folder / SOCKET).chmod(0o600)
    found.listen(64)
    return found


async def serve(listener: socket.socket, gateway: Gateway) -> asyncio.Server:
    """Answer what is asked on the socket until the server is closed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                what = (await reader.readline()).decode("ascii", "replace").strip()
            writer.write(json.dumps(await _answered(gateway, what)).encode() + b"\n")
            await writer.drain()
        except (TimeoutError, ValueError, OSError) as error:
            log.info("a question on the control socket was left: %s", error)
        finally:
            writer.close()

    return await asyncio.start_unix_server(answer, sock=listener)


async def _answered(gateway: Gateway, what: str) -> dict[str, Any]:
    if what == "stats":
        return gateway.stats().written()
    if what != "reload":
        return {"error": f"{what[:40]!r} is not asked here"}
    try:
        await gateway.watch.reload()
    except SQLAlchemyError as error:
        log.exception("the tables could not be read; the old ones hold on")
        return {"error": f"the tables could not be read ({type(error).__name__})"}
    return {"reloaded": True}

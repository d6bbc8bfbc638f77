"""Where the gateway answers: `gateway.json` in its folder, kept when it starts again."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from finery.errors import FineryError
from finery.files import read_json, write_json
from finery.workspace.place import Workspace

log = logging.getLogger("finery.endpoints")

BACKLOG = 2048  # connections that wait to be taken
FOLDER, FILE = "gateway", "gateway.json"


@dataclass(frozen=True)
class Addresses:
    """Both doors of the gateway."""

    host: str  # the name by which clients find the HTTPS door
    https_port: int
    http_port: int  # plain HTTP, on loopback

    @property
    def https_url(self) -> str:
        """The HTTPS address, without a final slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.https_port}"

    @property
    def http_url(self) -> str:
        """The plain HTTP address on loopback, without a final slash."""
        return f"http://127.0.0.1:{self.http_port}"


def folder_of(workspace: Workspace) -> Path:
    """Where the gateway keeps its ports, its control socket and its log."""
    return workspace.folder / FOLDER


def addresses(workspace: Workspace) -> Addresses | None:
    """The gateway's addresses; None when there never was one."""
    path = folder_of(workspace) / FILE
    return Addresses(**read_json(path)) if path.is_file() else None


def reserve(workspace: Workspace) -> Addresses:
    """Where the gateway answers or will: the last one's ports, or two that are free now."""
    if (found := addresses(workspace)) and found.host == workspace.settings.public_host:
        return found
    with listening(workspace) as (https, http):
        return keep(workspace, https, http)


def keep(workspace: Workspace, https: socket.socket, http: socket.socket) -> Addresses:
    """Write down where these two sockets are: for the clients, and for the next gateway."""
    ports = (https.getsockname()[1], http.getsockname()[1])
    found = Addresses(workspace.settings.public_host, *ports)
    if found != addresses(workspace):
        folder_of(workspace).mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(folder_of(workspace) / FILE, asdict(found))
    return found


@contextlib.contextmanager
def listening(workspace: Workspace) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both listening sockets, on the last gateway's ports where those are free."""
    last = addresses(workspace)
    with (
        _listen(workspace.settings.host, last.https_port if last else 0) as https,
        _listen("127.0.0.1", last.http_port if last else 0) as http,
    ):
        yield https, http


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        # Inherited by its connections: no token waits for the one before to be acknowledged.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        if not port:
            raise FineryError(f"{host} cannot be listened on: {error}.") from None
        log.warning("port %d of %s is taken: another one is used from now on", port, host)
        return _listen(host, 0)

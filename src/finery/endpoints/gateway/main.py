"""The gateway's process: `python -P -m finery.endpoints.gateway.main FOLDER`.

It answers `/endpoints/NAME/…` over HTTPS and, on loopback, over plain HTTP, whether or not the
service runs beside it; it reads the service's tables and writes nothing there. FOLDER is the
service's. SIGTERM lets it drain: no new connections, the requests under way have their time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from sqlalchemy import event
from starlette.types import ASGIApp

from finery.endpoints.gateway import control
from finery.endpoints.gateway.addresses import folder_of, keep, listening
from finery.endpoints.gateway.connections import PatientProtocol
from finery.endpoints.gateway.doors import application
from finery.endpoints.gateway.keeper import DATABASE, GRACE
from finery.endpoints.gateway.state import Gateway, opened
from finery.errors import FineryError
from finery.workspace.place import Workspace
from finery.workspace.settings import Settings, load_settings
from finery.workspace.store import Store, connect

log = logging.getLogger("finery.gateway")

MOST_CONNECTIONS = 4096  # at each door; the next ones are told 503
CLOSING = 0.5  # seconds in which the doors are shut for certain
IDLE = 60  # seconds that a client may keep a connection for its next request


def main(arguments: list[str] | None = None) -> int:
    """Answer until SIGTERM."""
    parser = argparse.ArgumentParser(prog="finery.endpoints.gateway.main", description=__doc__)
    parser.add_argument("folder", type=Path, help="the service's folder")
    parser.add_argument("--host", help="the interface of the HTTPS door")
    parser.add_argument("--version", help="of the service that starts it: for that to see")
    given = parser.parse_args(arguments)
    try:
        _run(given.folder, load_settings(given.folder, {"host": given.host}))
    except FineryError as error:
        print(f"The gateway ends: {error}", file=sys.stderr, flush=True)
        return error.exit_status
    return 0


def _run(folder: Path, settings: Settings) -> None:
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # `doors` says what it knows
    store = connect(os.environ.pop(DATABASE))
    _only_read(store)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection is an open file
    loop = uvicorn.Config(_nothing, loop="auto").get_loop_factory()  # uvloop where it is
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_serve(Workspace(folder, settings, store)))
    store.engine.dispose()


async def _nothing(scope: object, receive: object, send: object) -> None:
    """What stands for an application where none is asked."""


def _only_read(store: Store) -> None:
    """Whatever is wrong with the gateway, it changes nothing."""
    remote = store.engine.dialect.name == "postgresql"
    text = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY" if remote else ""

    def begin(connection: object, _record: object) -> None:
        cursor = connection.cursor()  # pyright: ignore[reportAttributeAccessIssue]
        cursor.execute(text or "PRAGMA query_only=ON")
        cursor.close()
        connection.commit()  # pyright: ignore[reportAttributeAccessIssue] - else it is undone

    event.listen(store.engine, "connect", begin)


async def _serve(workspace: Workspace) -> None:
    folder = folder_of(workspace)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with listening(workspace) as (https, http), contextlib.closing(control.listen(folder)) as own:
        async with opened(workspace) as gateway:
            found = keep(workspace, https, http)
            asking = await control.serve(own, gateway)
            _make_ready()
            log.info("endpoints answer at %s and %s", found.https_url, found.http_url)
            await _answer(workspace, gateway, https, http)
            asking.close()


def _make_ready() -> None:
    """No request waits for the collector to look at all modules, or long for another thread."""
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(0.0005)


async def _answer(
    workspace: Workspace, gateway: Gateway, https: socket.socket, http: socket.socket
) -> None:
    servers = [
        _Server(_config(application(gateway, plain=False), workspace.certificates)),
        _Server(_config(application(gateway, plain=True))),
    ]
    tasks = [
        asyncio.create_task(server.serve(sockets=[listener]))
        for server, listener in zip(servers, (https, http), strict=True)
    ]

    loop = asyncio.get_running_loop()
    drains: list[asyncio.Task[None]] = []

    async def drain() -> None:
        for server in servers:
            server.should_exit = True
        await asyncio.sleep(CLOSING)
        until = loop.time() + GRACE
        while any(server.server_state.tasks for server in servers) and loop.time() < until:
            await asyncio.sleep(0.02)
        # Idle clients that do not take their leave (TLS asks them to) are no reason to wait.
        for server in servers:
            server.force_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: drains.append(loop.create_task(drain())))
    await asyncio.gather(*tasks)


class _Server(uvicorn.Server):
    """A server that leaves signals to the process: there are two of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _config(app: ASGIApp, certificates: Path | None = None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=int(GRACE),
        ssl_certfile=str(certificates / "certificate.pem") if certificates else None,
        ssl_keyfile=str(certificates / "certificate.key") if certificates else None,
    )


if __name__ == "__main__":
    sys.exit(main())

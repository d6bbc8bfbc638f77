"""The service's process: take the folder, open the ports, answer until a signal comes."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI
from sqlalchemy.exc import ArgumentError
from starlette.types import ASGIApp

from finery import __version__
from finery.errors import Fault, FineryError, InputError, os_reason
from finery.service.app import create_app
from finery.service.certificates import Certificates, ensure_certificates
from finery.service.environment import forget_services
from finery.service.plain import PlainDoors
from finery.service.running import Running, last_running, write_running
from finery.workspace.lock import sole_service
from finery.workspace.migrations import migrate
from finery.workspace.place import Workspace
from finery.workspace.settings import Settings
from finery.workspace.store import connect
from finery.workspace.uploads import discard_stale

log = logging.getLogger("finery.service")
GRACE = 5  # seconds that open requests have when the service ends


def database_url(folder: Path, settings: Settings) -> str:
    """The configured database, or SQLite in the service's folder."""
    if not settings.database_url:
        return f"sqlite:///{folder / 'finery.sqlite'}"
    try:
        url = sa.make_url(settings.database_url)
    except ArgumentError as error:
        expected = "a URL such as postgresql://user@host/database"
        raise InputError([Fault("database_url", "no URL", expected)]) from error
    kind = url.get_backend_name()
    if kind not in ("postgresql", "postgres", "sqlite"):
        raise InputError([Fault("database_url", kind, "postgresql or sqlite")])
    if kind != "sqlite":
        if importlib.util.find_spec("psycopg") is None:
            raise FineryError("PostgreSQL needs psycopg: pip install 'finery[postgres]'.")
        url = url.set(drivername="postgresql+psycopg")
    return url.render_as_string(hide_password=False)


def serve(folder: Path, settings: Settings) -> None:
    """Run the service in this process until SIGTERM or SIGINT."""
    forget_services(os.environ)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # keys, the sockets of servers, people's data
    url = database_url(folder, settings)
    store = connect(url)
    with sole_service(folder, store), contextlib.closing(_Ports(folder, settings)) as ports:
        migrate(store)
        settings = replace(
            settings,
            port=ports.https_port,
            http_port=ports.http_port,
            database_url=url if settings.database_url else "",
        )
        workspace = Workspace(folder, settings, store)
        discard_stale(workspace)
        certificates = ensure_certificates(workspace.certificates, settings.public_host)
        app = create_app(workspace)
        asyncio.run(_answer(app, workspace, certificates, ports))
    store.engine.dispose()


class _Ports:
    """The two listening sockets. Port 0 is a free one: the last service's, where it still is."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        last = last_running(folder)
        self.https = _listen(settings.host, settings.port, last.port if last else 0)
        self.http = _listen("127.0.0.1", settings.http_port, last.http_port if last else 0)

    @property
    def https_port(self) -> int:
        return self.https.getsockname()[1]

    @property
    def http_port(self) -> int:
        return self.http.getsockname()[1]

    def close(self) -> None:
        self.https.close()
        self.http.close()


def _listen(host: str, port: int, last: int) -> socket.socket:
    if port == 0 and last:
        with contextlib.suppress(FineryError):
            return _listen(host, last, 0)
    try:
        listener = socket.create_server((host, port), backlog=2048)
        # asyncio sets it on connections of other listeners alone; without it an answer's second
        # part waits some 40 ms for the client to acknowledge the first.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        text = (
            f"Port {port} of {host} cannot be opened: {os_reason(error)}. Stop what uses it, or "
            "choose another with `finery up --port` / `--http-port` or in settings.yaml."
        )
        raise FineryError(text) from None


class _Server(uvicorn.Server):
    """A server that leaves signals to the process: there are two of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def _answer(
    app: FastAPI, workspace: Workspace, certificates: Certificates, ports: _Ports
) -> None:
    https = _Server(_config(app, certificates))
    http = _Server(_config(PlainDoors(app, workspace.settings.base_url), None))
    _end_on_signal((https, http))
    app.state.is_ending = lambda: https.should_exit  # for answers that would go on and on
    async with app.router.lifespan_context(app):
        tasks = [
            asyncio.create_task(https.serve(sockets=[ports.https])),
            asyncio.create_task(http.serve(sockets=[ports.http])),
        ]
        while not (https.started and http.started) and not any(task.done() for task in tasks):
            await asyncio.sleep(0.005)
        _announce(workspace)
        await asyncio.gather(*tasks)


def _config(app: ASGIApp, certificates: Certificates | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",  # run once, by us
        log_config=None,
        log_level="warning",
        access_log=False,  # addresses may carry signatures
        server_header=False,
        proxy_headers=False,  # nobody may say where a request comes from but its socket
        timeout_graceful_shutdown=GRACE,
        ssl_certfile=certificates.certificate if certificates else None,
        ssl_keyfile=certificates.key if certificates else None,
    )


def _end_on_signal(servers: Sequence[uvicorn.Server]) -> None:
    """Let a signal end the servers once the requests that are under way have been answered."""
    loop = asyncio.get_running_loop()
    ends: list[asyncio.Task[None]] = []

    async def end() -> None:
        for server in servers:
            server.should_exit = True
        deadline = loop.time() + GRACE
        while any(server.server_state.tasks for server in servers) and loop.time() < deadline:
            await asyncio.sleep(0.02)
        # Idle connections of clients that keep them open are no reason to wait.
        for server in servers:
            server.force_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: ends.append(loop.create_task(end())))


def _announce(workspace: Workspace) -> None:
    settings = workspace.settings
    running = Running(
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        host=settings.host,
        port=settings.port,
        http_port=settings.http_port,
        url=settings.base_url,
        http_url=settings.http_url,
        version=__version__,
    )
    write_running(workspace.folder, running)
    log.info("finery %s answers at %s and %s", __version__, running.url, running.http_url)

"""The tracking server as a part of the service: kept up, and fed with runs, in the background."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from finery.errors import FineryError
from finery.workspace.errors import UnavailableError
from finery.workspace.place import Workspace
from finery.workspace.tracking_server import TrackingServer
from finery.workspace.tracking_sync import Carrier

log = logging.getLogger("finery.tracking")
BEAT = 1.0  # seconds between two looks
PATIENCE = 90.0  # how long a request waits for a server that is coming up
LONGEST_PAUSE = 60.0


@dataclass
class Tracking:
    """What the door to MLflow needs."""

    server: TrackingServer
    carrier: Carrier
    client: httpx.AsyncClient
    up: asyncio.Event = field(default_factory=asyncio.Event)

    async def ready(self) -> httpx.AsyncClient:
        """A client for the server, once it is up and has every run that was said until now."""
        try:
            await asyncio.wait_for(self.up.wait(), PATIENCE)
        except TimeoutError:
            text = f"MLflow's server is not up. {self.server.log} says why."
            raise UnavailableError(text) from None
        await asyncio.to_thread(self.carrier.carry)
        return self.client

    async def keep_up(self) -> None:
        """Start, watch and restart the server; carry over what waits."""
        pause = BEAT
        while True:
            try:
                if not await asyncio.to_thread(self.server.is_up):
                    self.up.clear()
                    await asyncio.to_thread(self.server.ensure)
                self.up.set()
                await asyncio.to_thread(self.carrier.carry)
                pause = BEAT
            except FineryError as error:
                log.error("%s", error)
                pause = min(2 * pause, LONGEST_PAUSE)
            except Exception:  # a defect here must not end tracking for good
                log.exception("defect in the watch over MLflow")
                pause = LONGEST_PAUSE
            await asyncio.sleep(pause)


@contextlib.asynccontextmanager
async def part(app: Any, workspace: Workspace) -> AsyncIterator[None]:
    """Have MLflow while the service runs; requests do not wait for its start unless they use it."""
    if not workspace.settings.tracking:
        yield
        return
    server = TrackingServer(workspace)
    transport = httpx.AsyncHTTPTransport(uds=str(_socket(server)))
    timeout = httpx.Timeout(600, connect=10)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost", timeout=timeout
    ) as client:
        tracking = Tracking(server, Carrier(server), client)
        app.state.tracking = tracking
        keeper = asyncio.create_task(tracking.keep_up())
        try:
            yield
        finally:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
            await asyncio.to_thread(server.close)


def _socket(server: TrackingServer) -> object:
    server.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return server.socket

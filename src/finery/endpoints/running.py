"""What runs of endpoints beside the requests: the supervisor's thread and the gateway's keeper."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from finery.endpoints.gateway.keeper import Keeper
from finery.endpoints.supervisor import Supervisor
from finery.workspace.place import Workspace


@dataclass(frozen=True)
class Endpoints:
    """Handlers get it as `request.app.state.endpoints`."""

    supervisor: Supervisor
    keeper: Keeper


@contextlib.asynccontextmanager
async def part(app: FastAPI, workspace: Workspace) -> AsyncIterator[None]:
    """Look after replicas and gateway while the service runs; they go on when it ends."""
    running = Endpoints(Supervisor(workspace), Keeper(workspace))
    app.state.endpoints = running
    thread = threading.Thread(target=running.supervisor.run, name="endpoints", daemon=True)
    thread.start()
    running.keeper.start()
    try:
        yield
    finally:
        running.supervisor.stop()
        await run_in_threadpool(thread.join, 5.0)
        await run_in_threadpool(running.keeper.close)

"""The part of the service that keeps the libraries of steps loaded (`finery.runners.warm`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from finery.jobs.capacity import this_machine
from finery.runners import warm
from finery.workspace.place import Workspace

MODULE = "finery.components.warm"


@contextlib.asynccontextmanager
async def part(_app: object, workspace: Workspace) -> AsyncIterator[None]:
    """Keep them while the service runs; steps and replicas that began from them outlive it.

    Not on a machine with GPUs: a process forked from one that has looked for a GPU cannot use it.
    """
    with contextlib.ExitStack() as stack:
        if warm.is_possible() and workspace.settings.warm_steps and not this_machine().gpus:
            host = warm.WarmHost(MODULE, workspace.logs / "warm_host.log")
            await asyncio.to_thread(stack.enter_context, warm.kept(host))
        yield

"""Copies of requests to a mirror: nobody waits for them, and their answers reach nobody."""

from __future__ import annotations

import asyncio
import logging
import time

import aiohttp

from finery.endpoints.gateway import upstream
from finery.endpoints.gateway.admission import Places
from finery.endpoints.gateway.bodies import Body
from finery.endpoints.gateway.call import Call, passed_on
from finery.endpoints.gateway.refusals import TooSlowError, is_failure
from finery.endpoints.gateway.routing import mirror
from finery.endpoints.routing import Table
from finery.endpoints.values import Deployment, Replica
from finery.errors import FineryError

log = logging.getLogger("finery.gateway")


def copy(call: Call, table: Table, body: Body, draw: float | None = None) -> None:
    """Send the request to the mirror too, if it is this one's turn.

    A mirror that has no place free at this moment gets no copy (its log says so): no copy ever
    waits in a line. `draw` is a number from 0 up to 1.
    """
    deployment = mirror(table, draw)
    if deployment is None:
        return
    places = call.gateway.places[call.endpoint, deployment.name]
    if (replica := places.enter_now()) is None:
        line = {"request_id": call.id, "deployment": deployment.name, "mirrored": True}
        call.gateway.log.add(call.endpoint, {**line, "error": "the mirror has no place free"})
        return
    copies = call.gateway.copies
    task = asyncio.create_task(_copied(call, deployment, places, replica, body))
    copies.add(task)
    task.add_done_callback(copies.discard)


async def _copied(
    call: Call, deployment: Deployment, places: Places, replica: Replica, body: Body
) -> None:
    begun, status, error, tokens = time.perf_counter(), 424, "", (0, 0)
    headers = passed_on(call, deployment, replica.adapter)
    try:
        async with asyncio.timeout(deployment.timeout_seconds):
            response = await upstream.ask(
                call.gateway.session, replica, "POST", call.path, body, headers
            )
            async with response:
                until = asyncio.get_running_loop().time() + deployment.timeout_seconds
                outcome, _ = await upstream.opened(response, deployment, until)
                while await upstream.part(response, deployment):
                    pass
        status, tokens = outcome.status, (outcome.prompt, outcome.completion)
    except (TimeoutError, TooSlowError):
        status, error = 408, "TooSlowError"
    except (FineryError, aiohttp.ClientError, upstream.LostError) as lost:
        error = type(lost).__name__
    finally:
        places.leave(replica)
    seconds = time.perf_counter() - begun
    failed = bool(error) or is_failure(status)
    key = (call.endpoint, deployment.name)
    call.gateway.mirrored[key].add(status, seconds, failed=failed, tokens=tokens)
    call.gateway.log.add(
        call.endpoint,
        {
            "request_id": call.id,
            "deployment": deployment.name,
            "replica": replica.id,
            "route": f"POST {call.path}",
            "status": status,
            "ms": round(1000 * seconds, 2),
            "mirrored": True,
            **({"error": error} if error else {}),
        },
    )

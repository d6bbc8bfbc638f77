"""From a request to a replica's answer: a place, the question, the answer passed on."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass

import aiohttp

from finery.endpoints.gateway import upstream
from finery.endpoints.gateway.admission import Places
from finery.endpoints.gateway.azure_errors import model_error_headers, said_by_model
from finery.endpoints.gateway.bodies import Body
from finery.endpoints.gateway.call import Call, Departure, passed_on
from finery.endpoints.gateway.refusals import LATER, is_failure, status_of
from finery.endpoints.values import Deployment, Replica
from finery.errors import FineryError

STREAM = "text/event-stream"
STREAMED = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
USAGE = re.compile(rb": usage prompt=(\d+) completion=(\d+)")
TAIL = 256  # bytes at the end of a stream in which the replica says what it used
LONGEST_EVENT = 2**20  # bytes of a stream that are held back until an event is whole


@dataclass
class _Place:
    """A place at a replica, given back once."""

    places: Places
    replica: Replica
    held: bool = True

    def leave(self) -> None:
        if self.held:
            self.held = False
            self.places.leave(self.replica)


async def forward(call: Call, deployment: Deployment, body: Body, *, scored: bool) -> None:
    """Have one of the deployment's replicas answer the call.

    `scored`: a replica's refusal becomes a 424 (Azure's scoring address); else it is passed on.
    """
    call.deployment = deployment.name
    places = call.gateway.places[call.endpoint, deployment.name]
    async with Departure(call.receive) as departure:
        place, response, until = await _ask(call, deployment, places, body)
        try:
            if response.status < 400 and response.content_type == STREAM:
                await _stream(call, deployment, response, place, departure)
            else:
                await _whole(call, deployment, response, place, departure, until, scored)
        finally:
            place.leave()
            response.close()


async def _ask(
    call: Call, deployment: Deployment, places: Places, body: Body
) -> tuple[_Place, aiohttp.ClientResponse, float]:
    """The head of an answer; see `upstream` for what is asked twice."""
    until = asyncio.get_running_loop().time() + deployment.timeout_seconds
    again, silent = False, 0
    while True:
        waiting = time.perf_counter()
        left = until - asyncio.get_running_loop().time()
        call.lost = call.lost or not places.has_replica()
        place = _Place(places, await places.enter(left, again=again))
        call.queued += time.perf_counter() - waiting
        call.replica = place.replica.id
        try:
            async with asyncio.timeout_at(until):
                return place, await _asked(call, deployment, place.replica, body), until
        except upstream.LostError as error:
            places.leave_out(place.replica, str(error))
            place.leave()
            asked = isinstance(error, upstream.NothingSaidError)
            call.lost = call.lost or asked
            again, silent = True, silent + asked
            if silent == upstream.MOST_ASKED:
                raise upstream.broken_off(deployment, str(error)) from None
        except BaseException as error:
            place.leave()
            if isinstance(error, TimeoutError):
                raise upstream.too_slow(deployment) from None
            raise


async def _asked(
    call: Call, deployment: Deployment, replica: Replica, body: Body
) -> aiohttp.ClientResponse:
    headers = passed_on(call, deployment, replica.adapter)
    method, session = call.scope["method"], call.gateway.session
    try:
        return await upstream.ask(session, replica, method, call.path, body, headers)
    except aiohttp.ClientError as error:  # no HTTP, or the like
        raise upstream.broken_off(deployment, type(error).__name__) from None


async def _whole(
    call: Call,
    deployment: Deployment,
    response: aiohttp.ClientResponse,
    place: _Place,
    departure: Departure,
    until: float,
    scored: bool,
) -> None:
    """Pass on an answer that comes at once; a long one in parts."""
    outcome, content = await upstream.opened(response, deployment, until)
    call.first = time.perf_counter() if content else call.first
    while len(content) <= upstream.WHOLE and (
        part := await upstream.part(response, deployment, until)
    ):
        call.first = call.first or time.perf_counter()
        content = content + part if content else part
    status, kind = outcome.status, response.headers.get("content-type", "application/json")
    call.tokens = (outcome.prompt, outcome.completion)
    call.failed = is_failure(status)
    if len(content) <= upstream.WHOLE:
        place.leave()
        departure.over()
        if status >= 400 and scored:
            said = said_by_model(content)
            more = model_error_headers(status, said)
            await call.whole(424, call.shape(424, "ModelError", said), more=more)
        else:
            more = LATER.get(status, ())
            await call.whole(status, content, kind.encode("latin-1"), more)
        return
    await call.begin(status, kind.encode("latin-1"))
    await call.more(content)
    while part := await upstream.part(response, deployment, until):
        await call.more(part)
    departure.over()
    await call.more(b"", last=True)


async def _stream(
    call: Call,
    deployment: Deployment,
    response: aiohttp.ClientResponse,
    place: _Place,
    departure: Departure,
) -> None:
    """Pass on events as they come, whole ones only; a break is told as the last of them."""
    rest = await upstream.part(response, deployment)  # the head waits: it can still be a 424
    call.first = time.perf_counter()
    tail, end = b"", b""
    await call.begin(response.status, STREAM.encode(), STREAMED)
    try:
        while True:
            events, rest = _events(rest)
            if events:
                await call.more(events)
                tail = (tail + events)[-TAIL:]
            if not (part := await upstream.part(response, deployment)):
                break
            rest += part
        end = rest
    except FineryError as error:
        status, code = status_of(error)
        call.failed, call.error = True, type(error).__name__
        end = b"data: " + call.shape(status, code, str(error)) + b"\n\n"
    place.leave()
    if used := USAGE.search(tail + rest):
        call.tokens = (int(used[1]), int(used[2]))
    departure.over()
    await call.more(end, last=True)


def _events(content: bytes) -> tuple[bytes, bytes]:
    """The whole events at the beginning, and the rest."""
    at = content.rfind(b"\n\n")
    if at < 0:
        return (b"", content) if len(content) < LONGEST_EVENT else (content, b"")
    return content[: at + 2], content[at + 2 :]

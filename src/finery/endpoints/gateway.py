"""The way from a client to a replica: pass the request on, stream the answer back, in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import httpx

from finery.endpoints.routing import Table, mirror, pick
from finery.endpoints.values import Deployment, Replica
from finery.workspace.errors import UnavailableError

log = logging.getLogger("finery.endpoints")

PASSED = ("content-type", "accept")  # headers of a request that a replica needs
Departure = Callable[[], Awaitable[None]]  # returns when the client has left


class TooSlowError(UnavailableError):
    """A replica did not answer within the deployment's time."""


class ClientLeftError(UnavailableError):
    """Nobody waits for the answer any more."""


class BrokenOffError(UnavailableError):
    """A replica ended while it answered."""


@dataclass(frozen=True)
class Reply:
    """A replica's answer, its body still on the way. Whoever has it reads `body` to its end."""

    status: int
    content_type: str
    body: AsyncIterator[bytes]


def _client() -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx.AsyncClient(timeout=None, limits=limits, trust_env=False)  # noqa: S113 - ours is per request


@dataclass
class Gateway:
    """What all requests share: connections, and how many are open at each replica."""

    client: httpx.AsyncClient = field(default_factory=_client)
    open_requests: Counter[str] = field(default_factory=Counter)
    _mirrored: set[asyncio.Task[None]] = field(default_factory=set)

    async def close(self) -> None:
        """Let the connections go."""
        for task in self._mirrored:
            task.cancel()
        await self.client.aclose()

    async def forward(
        self,
        table: Table,
        deployment: Deployment,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        gone: Departure,
    ) -> Reply:
        """The answer of one of the deployment's replicas.

        Raises UnavailableError (none answers), OverloadedError, TooSlowError, ClientLeftError.
        """
        passed = {name: headers[name] for name in PASSED if name in headers}
        for replica in pick(table, deployment, self.open_requests):
            try:
                return await self._ask(replica, deployment, path, body, passed, gone)
            except httpx.ConnectError:  # it died a moment ago: nothing was asked of it yet
                log.warning("%s/%s: no connection", deployment.endpoint, deployment.name)
            except httpx.HTTPError as error:
                raise _broken_off(deployment, error) from None
        raise UnavailableError(
            f"No replica of the deployment {deployment.name} takes requests. Try again in a moment."
        )

    def copy(self, table: Table, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Send the request to the mirror too, if it is this one's turn; nobody waits for it."""
        deployment = mirror(table)
        if deployment is None:
            return
        task = asyncio.create_task(self._copy(table, deployment, path, body, headers))
        self._mirrored.add(task)
        task.add_done_callback(self._mirrored.discard)

    async def _copy(
        self, table: Table, to: Deployment, path: str, body: bytes, headers: Mapping[str, str]
    ) -> None:
        try:
            reply = await self.forward(table, to, path, body, headers, _never)
            async for _ in reply.body:
                pass
        except UnavailableError as error:
            log.warning("%s/%s: a mirrored request failed: %s", to.endpoint, to.name, error)

    async def _ask(
        self,
        replica: Replica,
        deployment: Deployment,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        gone: Departure,
    ) -> Reply:
        request = self.client.build_request(
            "POST",
            f"http://127.0.0.1:{replica.port}{path}",
            content=body,
            headers={**headers, "authorization": f"Bearer {replica.key}"},
        )
        self.open_requests[replica.id] += 1
        try:
            sent = self.client.send(request, stream=True)
            response = await _in_time(sent, deployment.timeout_seconds, gone)
        except BaseException:
            self._closed(replica)
            raise
        content_type = response.headers.get("content-type", "application/json")
        rest = self._body(response, replica, deployment)
        first = await anext(rest, b"")  # begun, so that it is closed however it is left
        return Reply(response.status_code, content_type, _joined(first, rest))

    async def _body(
        self, response: httpx.Response, replica: Replica, deployment: Deployment
    ) -> AsyncIterator[bytes]:
        """The bytes as they come; a stream that is silent for the whole time-out is cut."""
        parts = response.aiter_raw()
        try:
            while True:
                async with asyncio.timeout(deployment.timeout_seconds):
                    part = await anext(parts, None)
                if part is None:
                    return
                yield part
        except TimeoutError:
            raise _too_slow(deployment.timeout_seconds) from None
        except httpx.HTTPError as error:
            raise _broken_off(deployment, error) from None
        finally:
            self._closed(replica)
            with contextlib.suppress(httpx.HTTPError):
                await response.aclose()

    def _closed(self, replica: Replica) -> None:
        self.open_requests[replica.id] -= 1
        if not self.open_requests[replica.id]:
            del self.open_requests[replica.id]


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for part in rest:
        yield part


async def _never() -> None:
    await asyncio.Event().wait()


async def _in_time(
    work: Awaitable[httpx.Response], seconds: float, gone: Departure
) -> httpx.Response:
    """The result of `work`, unless the time is up or the client has left."""
    asked = asyncio.ensure_future(work)
    left = asyncio.ensure_future(gone())
    try:
        await asyncio.wait((asked, left), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            return asked.result()
        raise ClientLeftError("The client left.") if left.done() else _too_slow(seconds)
    finally:
        for task in (asked, left):
            task.cancel()
        await asyncio.gather(asked, left, return_exceptions=True)


def _too_slow(seconds: float) -> TooSlowError:
    return TooSlowError(
        f"The model did not answer within {seconds:g} seconds. Ask for fewer tokens, stream the "
        "answer, or raise request_timeout_ms of the deployment."
    )


def _broken_off(deployment: Deployment, error: httpx.HTTPError) -> BrokenOffError:
    return BrokenOffError(
        f"A replica of the deployment {deployment.name} broke off ({type(error).__name__}). Its "
        "log says more; it is started again."
    )

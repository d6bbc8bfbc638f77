"""From a client to a replica and back, in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import httpx
import pytest
from test_endpoint_routing import deployment, table

from finery.endpoints.gateway import (
    BrokenOffError,
    ClientLeftError,
    Gateway,
    Reply,
    TooSlowError,
)
from finery.endpoints.routing import OverloadedError
from finery.endpoints.values import Deployment
from finery.workspace.errors import UnavailableError

Answer = Callable[[httpx.Request], Coroutine[Any, Any, httpx.Response]]
ONE = table({"blue": 100}, blue=1)
TWO = table({"blue": 100}, blue=2)


def gateway(answer: Answer) -> Gateway:
    return Gateway(httpx.AsyncClient(transport=httpx.MockTransport(answer)))


async def never() -> None:
    await asyncio.Event().wait()


async def ask(
    at: Gateway, gone: Any = never, shared: Any = ONE, to: Deployment | None = None
) -> Reply:
    blue = to or shared.deployments["blue"]
    return await at.forward(shared, blue, "/score", b"{}", {"accept": "x", "cookie": "c"}, gone)


async def read(reply: Reply) -> bytes:
    return b"".join([part async for part in reply.body])


class Parts(httpx.AsyncByteStream):
    def __init__(self, *parts: bytes | Exception | float) -> None:
        self.parts = parts
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            if isinstance(part, float):
                await asyncio.sleep(part)
            else:
                yield part

    async def aclose(self) -> None:
        self.closed = True


def streamed(parts: Parts) -> Answer:
    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=parts, headers={"content-type": "text/event-stream"})

    return answer


def test_a_replica_is_asked_with_its_own_key_and_the_headers_it_needs() -> None:
    seen: list[httpx.Request] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(418, stream=Parts(b'{"a":1}'))

    async def work() -> None:
        reply = await ask(gateway(answer))
        assert (reply.status, reply.content_type) == (418, "application/json")
        assert await read(reply) == b'{"a":1}'

    asyncio.run(work())
    (request,) = seen
    assert request.headers["authorization"] == "Bearer k"
    assert request.headers["accept"] == "x"
    assert "cookie" not in request.headers
    assert (request.url.path, request.content) == ("/score", b"{}")


def test_parts_come_one_by_one_and_the_request_stays_open_until_the_last() -> None:
    async def work() -> None:
        parts = Parts(b"a", b"b")
        at = gateway(streamed(parts))
        reply = await ask(at)
        assert at.open_requests["blue0"] == 1
        assert [part async for part in reply.body] == [b"a", b"b"]
        assert at.open_requests["blue0"] == 0
        assert parts.closed

    asyncio.run(work())


def test_a_reader_who_leaves_closes_the_request() -> None:
    async def work() -> None:
        parts = Parts(b"a", 60.0, b"b")
        at = gateway(streamed(parts))
        reply = await ask(at)
        assert await anext(reply.body) == b"a"
        del reply  # as a server does with an answer that nobody reads any more
        for _ in range(5):
            await asyncio.sleep(0)
        assert at.open_requests["blue0"] == 0
        assert parts.closed

    asyncio.run(work())


def test_a_model_that_takes_too_long_is_a_time_out() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        raise AssertionError("it was not stopped")

    async def work() -> None:
        at = gateway(answer)
        with pytest.raises(TooSlowError, match=r"within 0\.01 seconds"):
            await ask(at, to=deployment("blue", timeout_seconds=0.01))
        assert at.open_requests["blue0"] == 0

    asyncio.run(work())


def test_a_stream_that_falls_silent_is_a_time_out() -> None:
    async def work() -> None:
        at = gateway(streamed(Parts(b"a", 60.0)))
        reply = await ask(at, to=deployment("blue", timeout_seconds=0.05))
        with pytest.raises(TooSlowError):
            await read(reply)
        assert at.open_requests["blue0"] == 0

    asyncio.run(work())


def test_a_client_who_leaves_stops_the_request() -> None:
    stopped = []

    async def answer(request: httpx.Request) -> httpx.Response:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.append(True)
        raise AssertionError("it was not stopped")

    async def left() -> None:
        await asyncio.sleep(0.01)

    async def work() -> None:
        at = gateway(answer)
        with pytest.raises(ClientLeftError):
            await ask(at, gone=left)
        assert at.open_requests["blue0"] == 0

    asyncio.run(work())
    assert stopped


def test_a_replica_that_is_gone_is_passed_over() -> None:
    tried = []

    async def answer(request: httpx.Request) -> httpx.Response:
        tried.append(request)
        if len(tried) == 1:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, stream=Parts())

    assert asyncio.run(ask(gateway(answer), shared=TWO)).status == 200
    assert len(tried) == 2


def test_without_any_replica_left_the_client_is_told_to_come_back() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(UnavailableError, match="No replica"):
        asyncio.run(ask(gateway(answer), shared=TWO))


def test_a_request_that_broke_off_is_not_sent_twice() -> None:
    tried = []

    async def answer(request: httpx.Request) -> httpx.Response:
        tried.append(request)
        raise httpx.ReadError("reset")

    with pytest.raises(BrokenOffError):
        asyncio.run(ask(gateway(answer), shared=TWO))
    assert len(tried) == 1


def test_an_answer_that_breaks_off_says_so() -> None:
    async def work() -> None:
        at = gateway(streamed(Parts(b"a", httpx.ReadError("reset"))))
        with pytest.raises(BrokenOffError, match="ReadError"):
            await read(await ask(at))
        assert at.open_requests["blue0"] == 0

    asyncio.run(work())


def test_requests_beyond_what_may_wait_are_refused_and_the_others_answered() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.02)
        return httpx.Response(200, stream=Parts())

    async def work() -> list[Any]:
        at = gateway(answer)

        async def whole() -> int:
            reply = await ask(at)
            await read(reply)
            return reply.status

        return await asyncio.gather(*(whole() for _ in range(5)), return_exceptions=True)

    ends = asyncio.run(work())
    assert ends.count(200) == 2
    assert sum(isinstance(end, OverloadedError) for end in ends) == 3


def test_a_mirror_gets_a_copy_and_its_failure_reaches_nobody() -> None:
    shared = table({"blue": 100}, {"green": 50}, blue=1, green=1)
    always = replace(shared, endpoint=replace(shared.endpoint, mirror_traffic={"green": 101}))
    seen = []

    async def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.content)
        raise httpx.ReadError("reset")

    async def work() -> None:
        at = gateway(answer)
        at.copy(always, "/score", b"body", {})
        await asyncio.gather(*at._mirrored)

    asyncio.run(work())
    assert seen == [b"body"]

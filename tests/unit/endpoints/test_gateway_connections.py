"""Callers who are slow, or send too much: they are ended, and the others do not notice."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from gateway_kit import KEY, World, run

from finery.endpoints.gateway import bodies, connections, naming
from finery.workspace.place import Workspace

HEAD = f"POST /endpoints/chat/score HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n"


async def talk(there: World, *parts: str, gap: float = 0.0) -> bytes:
    """Send this by and by, and read until the gateway closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
    try:
        for part in parts:
            writer.write(part.encode())
            await writer.drain()
            await asyncio.sleep(gap)
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b"reset"
    finally:
        writer.close()


def test_a_body_that_says_it_is_too_long_is_refused_before_it_is_sent(
    workspace: Workspace,
) -> None:
    async def work(there: World) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(f"{HEAD}content-length: {100 * 2**20}\r\n\r\n".encode())
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ")
        writer.close()
        assert there.stubs["blue"][0].seen == []

    run(workspace, work)


def test_a_body_that_turns_out_too_long_is_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(there: World) -> None:
        there.gateway.bodies.most = 2**20

        async def parts() -> Any:
            for _ in range(64):
                yield b"x" * 2**16

        said = await there.http.post("/endpoints/chat/score", content=parts())
        assert said.status_code == 413
        assert said.json()["error"]["code"] == "RequestBodyTooLarge"
        said = await there.http.post("/endpoints/chat/v1/completions", content=b"x" * 2**21)
        assert (said.status_code, said.json()["error"]["type"]) == (413, "invalid_request_error")
        assert (await there.ask()).status_code == 200  # on one of the same connections
        assert there.gateway.bodies.held == 0

    run(workspace, work)


def test_without_a_key_no_body_is_read(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        head = HEAD.replace(KEY, "wrong")
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(f"{head}content-length: 1000\r\n\r\n".encode())
        async with asyncio.timeout(10):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401 ")
        writer.close()

    run(workspace, work)


def test_more_long_bodies_than_fit_are_told_to_come_back(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MOST_TOGETHER", 3 * 2**20)

    async def work(there: World) -> None:
        content = b" " * 2**21
        asked = [there.http.post("/endpoints/chat/score", content=content) for _ in range(2)]
        first = asyncio.create_task(there.ask(sleep=0.5))
        await asyncio.sleep(0.1)
        statuses = sorted([one.status_code for one in await asyncio.gather(*asked)])
        assert statuses == [200, 429]
        assert (await first).status_code == 200
        assert there.gateway.bodies.held == 0

    run(workspace, work)


@pytest.mark.parametrize("path", ["score", "v1/chat/completions"])
def test_a_body_that_does_not_come_is_a_408(workspace: Workspace, path: str) -> None:
    async def work(there: World) -> None:
        there.gateway.bodies.seconds = 0.2
        head = HEAD.replace("/score", f"/{path}")
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(f"{head}content-length: 10\r\n\r\n".encode() + b"{")
        async with asyncio.timeout(10):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 408 ")
        writer.close()
        (line,) = there.lines()
        assert (line["status"], line["error"]) == (408, "SlowSenderError")
        assert there.gateway.stats().figures["chat", ""].errors == 0  # nobody else's fault

    run(workspace, work)


def test_a_head_that_does_not_come_is_a_408_and_an_idle_connection_is_closed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)

    async def work(there: World) -> None:
        slow, idle = await asyncio.gather(talk(there, *HEAD[:40], gap=0.02), talk(there))
        assert slow.startswith(b"HTTP/1.1 408 ") or slow == b"reset"
        assert idle == b""

    run(workspace, work)


def test_a_slow_second_head_on_a_kept_connection_is_ended_too(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)

    async def work(there: World) -> None:
        said = await talk(there, f"{HEAD}content-length: 2\r\n\r\n{{}}", "POST /endp", gap=0.3)
        assert said.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in said

    run(workspace, work)


def test_a_head_without_end_is_refused(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        said = await talk(there, HEAD, *["x-more: " + "y" * 8000 + "\r\n"] * 20)
        assert said.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")) or said == b"reset"

    run(workspace, work)


def test_what_is_no_http_is_a_400(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        assert (await talk(there, "\x16\x03\x01 hello\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        assert (await there.ask()).status_code == 200

    run(workspace, work)


def test_a_slow_reader_gives_the_place_back_when_the_answer_fits_his_connection(
    workspace: Workspace,
) -> None:
    async def work(there: World) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port, limit=2**10)
        body = json.dumps({"size": 100_000})
        writer.write(f"{HEAD}content-length: {len(body)}\r\n\r\n{body}".encode())
        async with asyncio.timeout(10):  # at_once is 1: the place is free again
            assert (await there.ask()).status_code == 200
        assert await reader.read(10) == b"HTTP/1.1 2"
        writer.close()

    run(workspace, work)


def test_who_reads_nothing_of_a_long_answer_is_cut_and_holds_no_place(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", 0.5)

    async def work(there: World) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", there.port, limit=2**10)
        body = json.dumps({"size": 60_000_000})
        writer.write(f"{HEAD}content-length: {len(body)}\r\n\r\n{body}".encode())
        async with asyncio.timeout(20):
            while not there.gateway.places["chat", "blue"].in_flight:
                await asyncio.sleep(0.01)
            while there.gateway.places["chat", "blue"].in_flight:
                await asyncio.sleep(0.01)
        assert (await there.ask()).status_code == 200
        (line, _) = there.lines()
        assert line["error"] == "ClientLeftError"
        writer.close()

    run(workspace, work)


def test_callers_are_answered_while_others_send_long_deep_and_slow_bodies(
    workspace: Workspace,
) -> None:
    """That nobody waits; by how much their times grow is for benchmarks/gateway.py to say."""

    async def work(there: World) -> None:
        url = "/endpoints/chat/v1/chat/completions"
        deep = b'{"a":' + b"[" * 4_000_000
        wide = b'{"a":[' + b"{}," * 1_000_000 + b"0]}"

        async def hostile() -> None:
            stalled = await asyncio.open_connection("127.0.0.1", there.port)
            stalled[1].write(f"{HEAD}content-length: 10\r\n\r\n".encode())
            for content in (deep, wide, b"x" * 30_000_000):
                await there.http.post(url, content=content)
            stalled[1].close()

        enemy = asyncio.create_task(hostile())
        slowest = answered = 0.0
        while not enemy.done():
            before = time.monotonic()
            assert (await there.ask("/v1/chat/completions", model="blue")).status_code == 200
            slowest, answered = max(slowest, time.monotonic() - before), answered + 1
        await enemy
        assert answered > 5
        assert there.gateway.naming._process is not None  # the long ones were parsed beside
        assert slowest < 2.0

    run(workspace, work, at_once=64)


def test_a_parser_that_dies_or_hangs_is_replaced(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(there: World) -> None:
        long = {"model": "chat", "filler": "x" * naming.SHORT}
        assert (await there.ask("/v1/completions", **long)).status_code == 200
        process = there.gateway.naming._process
        assert process is not None
        process.kill()
        await process.wait()
        assert (await there.ask("/v1/completions", **long)).status_code == 200
        monkeypatch.setattr(naming, "PATIENCE", 0.0)
        assert (await there.ask("/v1/completions", **long)).status_code == 503
        monkeypatch.undo()
        assert (await there.ask("/v1/completions", **long)).status_code == 200

    run(workspace, work)


def test_another_name_of_this_machine_is_refused_on_the_plain_port(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        for host, status in (
            ("localhost", 200),
            ("LOCALHOST:80", 200),
            ("127.0.0.1:1", 200),
            ("[::1]:1", 200),
            ("evil.example", 403),
            ("localhost.evil.example", 403),
            ("", 403),
        ):
            for path in ("/healthz", "/endpoints/chat/", "/metrics"):
                said = await there.http.get(path, headers={"host": host})
                assert said.status_code == status, (host, path)

    run(workspace, work)


def test_no_page_of_another_origin_is_invited(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        said = await there.http.options("/endpoints/chat/score", headers=asked)
        assert said.status_code == 405
        assert not [name for name in said.headers if name.startswith("access-control")]

    run(workspace, work)


def test_http_1_0_and_a_head_are_answered(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        old = HEAD.replace("HTTP/1.1", "HTTP/1.0") + "content-length: 2\r\n\r\n{}"
        assert b'"by": "blue"' in await talk(there, old)
        said = await there.http.head("/endpoints/chat/")
        assert (said.status_code, said.content) == (405, b"")
        assert isinstance(said, httpx.Response)

    run(workspace, work)

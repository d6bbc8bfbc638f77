"""Long and deep bodies cost the others little: in pieces, paced, beside. No clock is asked here.

By how much the times of others grow is for benchmarks/gateway.py to say.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from gateway_kit import KEY, World, error_of, run
from starlette.types import Message

from finery.endpoints.gateway import bodies, connections, naming
from finery.endpoints.gateway.bodies import Bodies, Body
from finery.endpoints.gateway.pacing import RATE, SHORT, Pace
from finery.endpoints.gateway.refusals import BodyTooLongError
from finery.workspace.place import Workspace

CHAT = "/v1/chat/completions"
MOST_AT_ONCE = 2**19  # bytes that the loop ever handles in one go
DEEP = b'{"model": "chat", "messages": ' + b"[" * 2_000_000


@dataclass
class Noted(Pace):
    """A pace that lets nobody wait and notes what it was asked."""

    sizes: list[int] = field(default_factory=list)

    def wait(self, size: int, moment: float) -> float:
        self.sizes.append(size)
        return 0.0


def read(pace: Pace, parts: Iterable[bytes], taken: list[int], **headers: str) -> Body:
    """A body that comes in these parts; `taken` gets the size of each that is asked for."""
    left = list(parts)

    async def receive() -> Message:
        part = left.pop(0)
        taken.append(len(part))
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    given = {name.encode(): value.encode() for name, value in headers.items()}
    return asyncio.run(Bodies(pace=pace).read(given, receive))


def test_bytes_have_their_time_one_after_the_other() -> None:
    pace = Pace(rate=100.0)
    waits = [pace.wait(50, 10.0), pace.wait(50, 10.0), pace.wait(10, 10.5)]
    assert waits == pytest.approx([0.5, 1.0, 0.6])
    assert pace.wait(100, 99.0) == 1.0, "time in which nothing came is not saved up"
    assert RATE / SHORT >= 8, "many bodies that are hardly long come in a second"


def test_a_short_body_is_not_paced_and_a_long_one_part_by_part() -> None:
    pace = Noted()
    assert read(pace, [b"x" * 1000] * 3, []).parts == (b"x" * 3000,)
    assert read(pace, [b"x" * SHORT], []).size == SHORT
    assert pace.sizes == []
    long = read(pace, [b"x" * SHORT, b"y" * 100, b"z" * 200], [])
    assert pace.sizes == [100, 200]
    assert (long.parts, long.size) == ((b"x" * SHORT, b"y" * 100, b"z" * 200), SHORT + 300)


def test_nothing_more_is_taken_of_a_long_body_while_it_waits() -> None:
    taken: list[int] = []

    class Watching(Noted):
        def wait(self, size: int, moment: float) -> float:
            self.sizes.append(len(taken))
            return super().wait(size, moment)

    pace = Watching()
    read(pace, [b"x" * SHORT] * 4, taken)
    assert pace.sizes == [2, SHORT, 3, SHORT, 4, SHORT]


def test_of_a_body_that_says_it_is_too_long_nothing_is_asked_for() -> None:
    taken: list[int] = []
    pace = Noted()
    with pytest.raises(BodyTooLongError):
        read(pace, [b"x"], taken, **{"content-length": str(100 * 2**20)})
    assert taken == []
    assert pace.sizes == [bodies.REFUSED], "and whoever comes again at once waits in line"


def test_a_long_body_is_never_in_one_piece(workspace: Workspace) -> None:
    seen: list[Body] = []

    async def work(there: World) -> None:
        original = there.gateway.bodies.read

        async def noted(*given: Any) -> Body:
            seen.append(await original(*given))
            return seen[-1]

        there.gateway.bodies.read = noted  # type: ignore[method-assign]
        content = b'{"model": "chat", "filler": "' + b"x" * 4_000_000 + b'"}'
        said = await there.http.post(f"/endpoints/chat{CHAT}", content=content)
        assert said.status_code == 200
        assert there.stubs["blue"][0].seen[0]["body"] == content
        assert there.stubs["blue"][0].seen[0]["headers"]["content-length"] == str(len(content))

    run(workspace, work)
    (body,) = seen
    assert max(len(part) for part in body.parts) <= MOST_AT_ONCE


def test_what_follows_a_refusal_is_taken_at_the_pace_and_no_faster(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    class Standing(Pace):
        def wait(self, size: int, moment: float) -> float:
            taken.append(size)
            return 3600.0

    monkeypatch.setattr(connections, "_DROPPED", Standing())

    async def work(there: World) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        head = f"POST /endpoints/chat{CHAT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer "
        writer.write(f"{head}{KEY}\r\ncontent-length: {100 * 2**20}\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
        writer.write(b"x" * (32 * 2**20))
        statuses = {(await there.ask(CHAT, model="chat")).status_code for _ in range(20)}
        writer.transport.abort()
        assert statuses == {200}
        assert len(taken) == 1, "one piece came, and no other until its time is over"
        assert taken[0] <= MOST_AT_ONCE

    run(workspace, work, at_once=64)


def test_a_deep_body_costs_one_look_and_no_new_process(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    original = naming.Naming._asked

    async def asked(self: naming.Naming, body: Body) -> dict[str, Any]:
        looks.append(body.size)
        return await original(self, body)

    monkeypatch.setattr(naming.Naming, "_asked", asked)

    async def work(there: World) -> None:
        processes = set()
        for _ in range(3):
            said = await there.http.post(f"/endpoints/chat{CHAT}", content=DEEP)
            assert said.status_code == 400
            assert "too deep" in error_of(said)["message"]
            process = there.gateway.naming._process
            assert process is not None
            processes.add(process.pid)
        assert looks == [len(DEEP)] * 3
        assert len(processes) == 1
        assert there.stubs["blue"][0].seen == []

    run(workspace, work)


def test_the_process_that_parses_long_bodies_gives_way_to_all_others(
    workspace: Workspace,
) -> None:
    async def work(there: World) -> None:
        await there.ask(CHAT, model="chat", filler="x" * 2 * naming.SHORT)
        process = there.gateway.naming._process
        assert process is not None
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == naming.NICE
        assert os.getsid(process.pid) == process.pid, "of a session's share it takes its own"

    run(workspace, work)

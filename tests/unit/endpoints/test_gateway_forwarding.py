"""Places, time-outs, streams, second tries and mirrors, with replicas that misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from gateway_kit import Stub, World, error_of, run

from finery.workspace.place import Workspace

CHAT, SCORE = "/v1/chat/completions", "/score"


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("path", [SCORE, CHAT])
def test_a_slow_model_is_a_408_and_stops(workspace: Workspace, path: str) -> None:
    async def work(there: World) -> None:
        said = await there.ask(path, sleep=20)
        assert said.status_code == 408
        assert "0.2 seconds" in error_of(said)["message"]
        (stub,) = there.stubs["blue"]
        await until(lambda: not stub.under_way)
        assert (stub.left, there.gateway.places["chat", "blue"].in_flight) == (1, 0)

    run(workspace, work, seconds=0.2)


@pytest.mark.parametrize("path", [SCORE, CHAT])
def test_a_busy_model_is_a_429_after_which_clients_try_again(
    workspace: Workspace, path: str
) -> None:
    async def work(there: World) -> None:
        said = await asyncio.gather(*(there.ask(path, sleep=0.3) for _ in range(8)))
        statuses = [one.status_code for one in said]
        assert (statuses.count(200), statuses.count(429)) == (4, 4)
        refused = next(one for one in said if one.status_code == 429)
        assert refused.headers["retry-after"] == "1"
        assert there.stubs["blue"][0].most_under_way == 2

    run(workspace, work, at_once=2)


@pytest.mark.parametrize("path", [SCORE, CHAT])
def test_a_model_that_is_being_started_is_a_503_after_which_clients_try_again(
    workspace: Workspace, path: str
) -> None:
    async def work(there: World) -> None:
        said = await there.ask(path)
        assert (said.status_code, said.headers["retry-after"]) == (503, "1")
        assert "no replica that answers yet" in error_of(said)["message"]

    run(workspace, work, state="Creating")


def test_a_client_who_leaves_stops_the_model(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        (stub,) = there.stubs["blue"]
        for told in ({"sleep": 30}, {"stream": 1000, "gap": 0.05}):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await there.ask(**told)
            await until(lambda: not stub.under_way)
        assert stub.left == 2
        assert there.gateway.places["chat", "blue"].in_flight == 0

    run(workspace, work)


def test_a_stream_comes_piece_by_piece(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        body = {"stream": 3, "gap": 0.2}
        async with there.http.stream("POST", f"/endpoints/chat{CHAT}", json=body) as said:
            assert said.headers["content-type"] == "text/event-stream"
            assert said.headers["cache-control"] == "no-cache"
            events = said.aiter_raw()
            assert await anext(events) == b'data: {"n": 0}\n\n'
            assert there.gateway.places["chat", "blue"].in_flight == 1
            rest = b"".join([part async for part in events])
        assert rest.endswith(b"data: [DONE]\n\n: usage prompt=3 completion=5\n\n")
        await until(lambda: not there.gateway.places["chat", "blue"].in_flight)

    run(workspace, work)


@pytest.mark.parametrize("path", [CHAT, "/chat/completions", SCORE])
def test_a_stream_that_breaks_says_so_in_its_last_event_and_is_not_begun_anew(
    workspace: Workspace, path: str
) -> None:
    async def work(there: World) -> None:
        await there.deploy("green", Stub("green"), Stub("green"))
        await there.traffic(green=100)
        said = await there.ask(path, stream=2, die="answered")
        *events, last, _ = said.text.split("\n\n")
        assert events == ['data: {"n": 0}', 'data: {"n": 1}']
        error = json.loads(last.removeprefix("data: "))["error"]
        assert error["code"] == "ModelError"
        assert "broke off" in error["message"]
        assert sum(len(stub.seen) for stub in there.stubs["green"]) == 1

    run(workspace, work)


def test_a_stream_that_falls_silent_is_cut_with_its_last_event(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        said = await there.ask(CHAT, stream=5, gap=30)
        error = json.loads(said.text.split("\n\n")[1].removeprefix("data: "))["error"]
        assert error["code"] == "RequestTimeout"

    run(workspace, work, seconds=0.3)


def test_a_long_answer_is_passed_on_whole(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        said = await there.ask(size=5_000_000)
        assert len(said.content) > 5_000_000

    run(workspace, work)


def test_a_replica_that_is_gone_is_passed_over(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        gone, _ = await there.deploy("green", Stub("gone"), Stub("green"))
        await there.traffic(green=100)
        await gone.stop()
        said = [(await there.ask()).json()["by"] for _ in range(4)]
        assert said == ["green"] * 4

    run(workspace, work)


@pytest.mark.parametrize("path", [SCORE, CHAT])
def test_a_replica_that_dies_before_it_answers_is_replaced_by_another(
    workspace: Workspace, path: str
) -> None:
    async def work(there: World) -> None:
        made = await there.deploy("green", Stub("dies"), Stub("lives", mortal=False))
        await there.traffic(green=100)
        said = await there.ask(path, die="asked")
        assert (said.status_code, said.json()["by"]) == (200, "lives")
        assert [len(stub.seen) for stub in made] == [1, 1]

    run(workspace, work)


def test_a_request_that_kills_replicas_kills_three_and_no_more(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        made = await there.deploy("green", Stub("a"), Stub("b"), Stub("c"), Stub("d"))
        await there.traffic(green=100)
        said = await there.ask(die="asked")
        assert (said.status_code, error_of(said)["code"]) == (424, "ModelError")
        assert said.headers["ms-azureml-model-error-statuscode"] == "502"
        assert sum(len(stub.seen) for stub in made) == 3

    run(workspace, work)


def test_an_answer_that_has_begun_is_not_asked_for_again(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        made = await there.deploy("green", Stub("a"), Stub("b"))
        await there.traffic(green=100)
        said = await there.ask(die="answered")
        assert (said.status_code, error_of(said)["code"]) == (424, "ModelError")
        assert sum(len(stub.seen) for stub in made) == 1

    run(workspace, work)


@pytest.mark.parametrize("path", [SCORE, CHAT])
def test_a_whole_answer_that_had_its_first_token_is_not_asked_for_again(
    workspace: Workspace, path: str
) -> None:
    async def work(there: World) -> None:
        made = await there.deploy("green", Stub("a"), Stub("b"))
        await there.traffic(green=100)
        for dying in ("begun", "answered"):
            said = await there.ask(path, die=dying, begun=True)
            assert (said.status_code, error_of(said)["code"]) == (424, "ModelError")
            assert "broke off" in error_of(said)["message"]
        assert sum(len(stub.seen) for stub in made) == 2
        assert there.gateway.stats().figures["chat", "green"].errors == 2

    run(workspace, work)


@pytest.mark.parametrize("path", [SCORE, CHAT])
def test_how_a_begun_answer_ended_is_told_as_of_any_other(workspace: Workspace, path: str) -> None:
    async def work(there: World) -> None:
        for told in ({}, {"size": 300}, {"size": 3_000_000}, {"status": 500}, {"status": 400}):
            plain, begun = await there.ask(path, **told), await there.ask(path, begun=True, **told)
            assert (begun.status_code, begun.content) == (plain.status_code, plain.content)
            names = {"content-type", "ms-azureml-model-error-statuscode"}
            assert [(n, v) for n, v in begun.headers.items() if n in names] == [
                (n, v) for n, v in plain.headers.items() if n in names
            ]
        kept = ("status", "prompt_tokens", "completion_tokens")
        lines = [[line[name] for name in kept] for line in there.lines()]
        assert lines[::2] == lines[1::2]
        assert lines[0] == [200, 3, 5]

    run(workspace, work)


def test_without_any_replica_the_request_waits_for_the_next_one(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        (stub,) = there.stubs["blue"]
        port = stub.port
        await stub.stop()
        asked = asyncio.create_task(there.ask())
        await asyncio.sleep(0.1)
        there.stubs["blue"] = [await Stub("again").start(port)]
        assert (await asked).json()["by"] == "again"

    run(workspace, work)


async def asked_until(there: World, over: asyncio.Event, seconds: float) -> list[int]:
    """The statuses of requests that come at a steady pace until it is over."""
    asked = []
    while not over.is_set():
        asked.append(asyncio.create_task(there.ask(sleep=seconds)))
        await asyncio.sleep(0.02)
    return [answer.status_code for answer in await asyncio.gather(*asked)]


def test_no_request_is_lost_while_replicas_are_killed_and_come_again(
    workspace: Workspace,
) -> None:
    async def work(there: World) -> None:
        made = await there.deploy("green", Stub("a"), Stub("b"), at_once=64)
        await there.traffic(green=100)
        over = asyncio.Event()
        asking = asyncio.create_task(asked_until(there, over, 0.05))
        for number in range(8):
            await asyncio.sleep(0.15)
            stub = made[number % 2]
            port = stub.port
            await stub.kill()
            await asyncio.sleep(0.1)
            await stub.start(port)
        over.set()
        statuses = await asking
        assert len(statuses) > 20
        assert set(statuses) == {200}
        ids = [seen["headers"]["x-request-id"] for stub in made for seen in stub.seen]
        assert max(ids.count(one) for one in set(ids)) <= 3

    run(workspace, work)


def test_traffic_moves_to_another_deployment_under_load_without_a_failure(
    workspace: Workspace,
) -> None:
    async def work(there: World) -> None:
        (green,) = await there.deploy("green", Stub("green"), at_once=64)
        over = asyncio.Event()
        asking = asyncio.create_task(asked_until(there, over, 0.02))
        for share in (10, 50, 100):
            await asyncio.sleep(0.2)
            await there.traffic(blue=100 - share, green=share)
        await asyncio.sleep(0.1)
        await there.remove_replica("blue0")  # what it has under way, it answers
        before = len(there.stubs["blue"][0].seen)
        await asyncio.sleep(0.2)
        over.set()
        assert set(await asking) == {200}
        assert len(there.stubs["blue"][0].seen) == before
        assert green.seen

    run(workspace, work, at_once=64)


def test_who_waits_in_line_and_leaves_is_never_asked_about(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        first = asyncio.create_task(there.ask(sleep=0.5))
        await until(lambda: there.stubs["blue"][0].seen)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await there.ask()
        assert (await first).status_code == 200
        assert (await there.ask()).status_code == 200
        assert len(there.stubs["blue"][0].seen) == 2
        assert [line["status"] for line in there.lines()] == [499, 200, 200]

    run(workspace, work)


def test_a_mirror_gets_copies_and_its_answers_reach_nobody(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        (green,) = await there.deploy("green", Stub("green"), at_once=64)
        await there.traffic({"green": 50}, blue=100)
        by = {(await there.ask()).json()["by"] for _ in range(80)}
        assert by == {"blue"}
        await until(lambda: not there.gateway.copies)
        assert 15 < len(green.seen) < 65
        counted = there.gateway.stats()
        assert counted.mirrored["chat", "green"].requests == len(green.seen)
        assert counted.figures["chat", "green"].requests == 0
        before = len(green.seen)
        header = {"azureml-model-deployment": "blue"}
        for _ in range(30):
            await there.http.post("/endpoints/chat/score", json={}, headers=header)
        assert len(green.seen) == before

    run(workspace, work)


@pytest.mark.parametrize("habit", [{"sleep": 20}, {"die": "asked"}, {"die": "answered"}])
def test_a_mirror_that_is_slow_or_dies_costs_nobody_anything(
    workspace: Workspace, habit: dict[str, Any]
) -> None:
    async def work(there: World) -> None:
        (green,) = await there.deploy("green", Stub("green", habit=habit), seconds=0.3)
        await there.traffic({"green": 50}, blue=100)
        said = [await there.ask() for _ in range(40)]
        assert {one.status_code for one in said} == {200}
        await until(lambda: not there.gateway.copies)
        assert there.gateway.stats().mirrored["chat", "green"].errors == len(green.seen) > 0
        assert there.gateway.places["chat", "green"].in_flight == 0

    run(workspace, work)

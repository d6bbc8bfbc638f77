"""Places at the replicas of a deployment, and the line before them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from test_endpoint_routing import deployment, replica

from finery.endpoints.gateway import admission
from finery.endpoints.gateway.admission import Places
from finery.endpoints.gateway.refusals import OverloadedError, TooSlowError
from finery.workspace.errors import UnavailableError


def places(count: int = 1, at_once: int = 1, **changes: Any) -> Places:
    found = Places(deployment("blue", at_once=at_once, **changes))
    found.update(found.deployment, [replica(f"blue{number}", "blue") for number in range(count)])
    return found


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_least_busy_replica_is_asked_first() -> None:
    async def work() -> None:
        three = places(3, at_once=2)
        assert {(await three.enter(1)).id for _ in range(3)} == {"blue0", "blue1", "blue2"}
        three.leave(three.replicas[2])
        assert (await three.enter(1)).id == "blue2"

    run(work())


def test_no_replica_gets_more_than_its_places_and_the_rest_waits_in_order() -> None:
    async def work() -> None:
        two = places(2, at_once=2)
        for _ in range(4):
            await two.enter(1)
        assert two.busy == {"blue0": 2, "blue1": 2}
        order: list[int] = []

        async def wait(number: int) -> None:
            await two.enter(5)
            order.append(number)

        waiting = [asyncio.create_task(wait(number)) for number in range(4)]
        await settle()
        assert (order, len(two.waiting)) == ([], 4)
        for at in (1, 0, 1, 0):
            two.leave(two.replicas[at])
            await settle()
        assert order == [0, 1, 2, 3]
        await asyncio.gather(*waiting)
        assert two.in_flight == 4

    run(work())


def test_twice_what_can_be_answered_may_be_under_way_and_no_more() -> None:
    async def work() -> None:
        two = places(2)
        waiting = [asyncio.create_task(two.enter(5)) for _ in range(4)]
        await settle()
        with pytest.raises(OverloadedError, match="4 requests are under way"):
            await two.enter(5)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    run(work())


def test_who_leaves_the_line_leaves_no_place_taken() -> None:
    async def work() -> None:
        one = places()
        first = await one.enter(1)
        waiting = asyncio.create_task(one.enter(5))
        await settle()
        one.leave(first)  # the place is the waiter's from here on ...
        waiting.cancel()  # ... who is gone before it can take it
        await asyncio.gather(waiting, return_exceptions=True)
        assert (one.in_flight, len(one.waiting)) == (0, 0)
        assert await one.enter(1)

    run(work())


def test_waiting_ends_with_the_time_of_the_request() -> None:
    async def work() -> None:
        one = places()
        await one.enter(1)
        with pytest.raises(TooSlowError, match=r"no place for the request within 0\.01 seconds"):
            await one.enter(0.01)
        assert not one.waiting

    run(work())


def test_a_replica_that_was_not_reached_is_left_out_and_tried_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "LEFT_OUT", 0.03)

    async def work() -> None:
        two = places(2)
        two.leave_out(two.replicas[0], "refused")
        assert (await two.enter(1)).id == "blue1"
        assert (await two.enter(1)).id == "blue0"  # after it had its moment

    run(work())


def test_a_request_that_lost_its_replica_goes_to_the_head_of_the_line() -> None:
    async def work() -> None:
        one = places()
        held = await one.enter(1)
        order: list[str] = []

        async def wait(name: str, again: bool) -> None:
            await one.enter(5, again=again)
            order.append(name)

        tasks = [asyncio.create_task(wait("later", False))]
        await settle()
        tasks.append(asyncio.create_task(wait("earlier", True)))
        await settle()
        for _ in range(2):
            one.leave(held)
            await settle()
        assert order == ["earlier", "later"]
        await asyncio.gather(*tasks)

    run(work())


def test_a_new_replica_takes_from_the_line() -> None:
    async def work() -> None:
        one = places()
        await one.enter(1)
        waiting = asyncio.create_task(one.enter(5))
        await settle()
        one.update(one.deployment, [*one.replicas, replica("new", "blue")])
        assert (await waiting).id == "new"

    run(work())


def test_a_deployment_that_lost_its_replicas_is_waited_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        none = places(0)
        waiting = asyncio.create_task(none.enter(5))
        await settle()
        none.update(none.deployment, [replica("new", "blue")])
        assert (await waiting).id == "new"
        monkeypatch.setattr(admission, "PATIENCE", 0.01)
        none.update(none.deployment, [])
        with pytest.raises(UnavailableError, match="No replica of the deployment blue"):
            await none.enter(5)

    run(work())


@pytest.mark.parametrize(
    ("state", "count"), [("Creating", 1), ("Deleting", 1), ("Failed", 0), ("Creating", 0)]
)
def test_a_deployment_that_is_not_there_yet_or_any_more_says_so_at_once(
    state: str, count: int
) -> None:
    async def work() -> None:
        with pytest.raises(UnavailableError, match=f"answers yet.*{state}"):
            await places(count, state=state).enter(5)

    run(work())


def test_the_old_replicas_of_a_deployment_that_failed_to_change_go_on() -> None:
    async def work() -> None:
        assert await places(1, state="Failed").enter(1)

    run(work())


def test_who_waits_for_a_deployment_that_is_deleted_is_told() -> None:
    async def work() -> None:
        one = places()
        await one.enter(1)
        waiting = asyncio.create_task(one.enter(5))
        await settle()
        one.close()
        with pytest.raises(UnavailableError, match="was deleted"):
            await waiting

    run(work())


def test_a_mirror_takes_a_place_that_is_free_now_or_none() -> None:
    async def work() -> None:
        one = places()
        held = one.enter_now()
        assert held is not None
        assert one.enter_now() is None
        waiting = asyncio.create_task(one.enter(5))
        await settle()
        one.leave(held)
        assert one.enter_now() is None  # whoever waits comes first
        one.leave(await waiting)
        assert places(1, state="Creating").enter_now() is None

    run(work())

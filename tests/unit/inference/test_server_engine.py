"""The model behind a replica: in line, in pieces, and stopped when nobody listens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest

from finery.errors import FineryError
from finery.inference.generate import Answer
from finery.inference.server_engine import Engine, Pieces

WHOLE = Answer("ab", 1, 2, "stop", 0.0)


def engine(at_once: int = 1) -> Engine:
    opened: Any = SimpleNamespace(model=None, renderer=None)
    return Engine(opened, at_once)


def said(*pieces: str) -> Pieces:
    yield from pieces
    return WHOLE


async def collected(engine: Engine, made: Pieces) -> list[str | Answer]:
    return [piece async for piece in engine.pieces(made)]


def test_pieces_come_in_order_and_the_whole_answer_last() -> None:
    assert asyncio.run(collected(engine(), said("a", "b"))) == ["a", "b", WHOLE]


def test_an_error_of_the_model_reaches_the_reader() -> None:
    def broken() -> Pieces:
        yield "a"
        raise FineryError("no room")

    with pytest.raises(FineryError, match="no room"):
        asyncio.run(collected(engine(), broken()))


def test_a_reader_who_leaves_stops_the_model() -> None:
    closed = threading.Event()

    def endless() -> Pieces:
        try:
            while True:
                yield "a"
        finally:
            closed.set()
        return WHOLE

    async def leave() -> None:
        pieces = engine().pieces(endless())
        assert await anext(pieces) == "a"
        await pieces.aclose()
        assert await asyncio.to_thread(closed.wait, 10)

    asyncio.run(leave())


def test_a_cancelled_reader_frees_the_place_for_the_next() -> None:
    begun = threading.Event()

    def endless() -> Pieces:
        while True:
            begun.set()
            yield "a"

    async def work() -> list[str | Answer]:
        one = engine()
        first = asyncio.create_task(collected(one, endless()))
        await asyncio.to_thread(begun.wait, 10)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        return await asyncio.wait_for(collected(one, said("b")), 10)

    assert asyncio.run(work()) == ["b", WHOLE]


@pytest.mark.parametrize("at_once", [1, 2])
def test_no_more_answers_than_places_are_made_at_a_time(at_once: int) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def counted() -> Generator[str, None, Answer]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        yield "a"
        yield "b"
        with lock:
            running -= 1
        return WHOLE

    async def work() -> None:
        one = engine(at_once)
        await asyncio.gather(*(collected(one, counted()) for _ in range(6)))

    asyncio.run(work())
    assert most <= at_once

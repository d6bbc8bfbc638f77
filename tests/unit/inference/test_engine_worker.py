"""An engine in a process of its own: what it says arrives, and its death is told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

from finery.errors import FineryError
from finery.inference.engine import EngineLostError, Generation, Token
from finery.inference.engines.worker_engine import WorkerEngine, threads, worker_command

SCRIPT = Path(__file__).with_name("stand_in_worker.py")
Open = Callable[..., WorkerEngine]


@pytest.fixture
def start() -> Iterator[Open]:
    """`start(**options)`: an engine whose worker is the stand-in."""
    engines: list[WorkerEngine] = []

    def opened(**options: Any) -> WorkerEngine:
        command = [sys.executable, "-I", str(SCRIPT), json.dumps(options)]
        engine = WorkerEngine("openvino", command, precision="int8", context=64)
        engines.append(engine)
        return engine

    yield opened
    for engine in engines:
        asyncio.run(engine.close())


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


async def made(engine: WorkerEngine, *prompt: int, **settings: Any) -> list[Token]:
    wanted = Generation(prompt, settings.pop("max_new_tokens", 8), **settings)
    return [token async for token in engine.generate(wanted)]


def test_tokens_arrive_in_their_order(start: Open) -> None:
    engine = start()
    assert [token.id for token in run(made(engine, 5, 6, 7))] == [5, 6, 7]
    assert engine.health() == ""


def test_answers_at_once_do_not_mix(start: Open) -> None:
    engine = start()

    async def many() -> list[list[Token]]:
        return await asyncio.gather(*(made(engine, n, n + 1, n + 2) for n in range(20)))

    for number, tokens in enumerate(run(many())):
        assert [token.id for token in tokens] == [number, number + 1, number + 2]


def test_it_serves_one_event_loop_after_the_other(start: Open) -> None:
    engine = start()
    assert [[token.id for token in run(made(engine, n))] for n in (1, 2)] == [[1], [2]]


def test_log_probabilities_come_with_the_token(start: Open) -> None:
    engine = start(features=["logprobs"])
    assert run(made(engine, 9, logprobs=2)) == [Token(9, -0.5, ((9, -0.5), (1, -2.0)))]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"logprobs": 0}, "logprobs"),
        ({"schema": {"type": "object"}}, "schema"),
        ({"frequency_penalty": 0.5}, "penalties"),
        ({"adapter": "blue"}, "adapters"),
    ],
)
def test_what_it_cannot_do_is_refused_before_the_first_token(
    start: Open, settings: dict[str, Any], word: str
) -> None:
    with pytest.raises(FineryError, match=f"has no {word}.*--engine torch"):
        run(made(start(), 1, **settings))


@pytest.mark.parametrize(("prompt", "most"), [((1,) * 60, 5), ((), 5), ((1,), 0)])
def test_an_answer_that_does_not_fit_is_refused(
    start: Open, prompt: tuple[int, ...], most: int
) -> None:
    with pytest.raises(FineryError):
        run(made(start(), *prompt, max_new_tokens=most))


def test_a_refusal_of_the_worker_is_an_error_of_that_answer_alone(start: Open) -> None:
    engine = start(refuse="it does not fit into the cache")
    for _ in range(2):
        with pytest.raises(FineryError, match="does not fit into the cache"):
            run(made(engine, 1))
    assert engine.health() == ""


def test_an_answer_that_nobody_reads_is_cancelled(start: Open) -> None:
    engine = start()

    async def leave() -> list[Token]:
        async with aclosing(engine.generate(Generation((777,), 50))) as tokens:
            async for _ in tokens:
                break
        return await made(engine, 888)

    assert [token.id for token in run(leave())] == [1]  # the number of the first answer


def test_an_answer_whose_task_is_cancelled_is_cancelled_too(start: Open) -> None:
    engine = start()

    async def leave() -> list[Token]:
        task = asyncio.create_task(made(engine, 777, max_new_tokens=50))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return await made(engine, 888)

    assert [token.id for token in run(leave())] == [1]


def test_its_death_is_told_with_its_last_words_to_all(start: Open) -> None:
    engine = start()

    async def both() -> list[Any]:
        other = asyncio.create_task(made(engine, 777, max_new_tokens=50))
        await asyncio.sleep(0.05)
        return await asyncio.gather(made(engine, 666), other, return_exceptions=True)

    for error in run(both()):
        assert isinstance(error, EngineLostError)
        assert "status 3" in str(error)
        assert "the model fell over" in str(error)
    assert "the model fell over" in engine.health()
    with pytest.raises(EngineLostError, match="fell over"):
        run(made(engine, 1))


def test_a_killed_worker_is_a_lost_engine(start: Open) -> None:
    engine = start()
    os.kill(engine._child.process.pid, signal.SIGKILL)
    with pytest.raises(EngineLostError, match="status -9"):
        run(made(engine, 777, max_new_tokens=50))


def test_what_a_dead_worker_left_behind_does_not_hide_its_death(start: Open) -> None:
    engine = start(orphan=True)
    worker = psutil.Process(engine._child.process.pid)
    [orphan] = worker.children()
    worker.kill()
    with pytest.raises(EngineLostError):
        run(made(engine, 777, max_new_tokens=50))
    psutil.wait_procs([orphan], timeout=10)
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE


def test_a_worker_that_does_not_start_says_why(start: Open) -> None:
    with pytest.raises(FineryError, match=r"did not start.*status 1.*\nno such model"):
        start(die=True)


def test_a_program_that_is_not_there_says_so() -> None:
    with pytest.raises(FineryError, match="cannot be started: no such file"):
        WorkerEngine("openvino", ["/nowhere/python"], precision="int8", context=8)


def test_a_closed_engine_answers_nothing_and_its_process_is_gone(start: Open) -> None:
    engine = start()
    process = psutil.Process(engine._child.process.pid)
    run(engine.close())
    assert not process.is_running()
    assert engine.health() == "it was closed"
    with pytest.raises(EngineLostError, match="it was closed"):
        run(made(engine, 1))


def test_it_is_not_ended_by_the_end_of_the_thread_that_opened_it(start: Open) -> None:
    async def open_elsewhere() -> WorkerEngine:
        return await asyncio.to_thread(start)  # the pool's thread ends with the loop

    engine = run(open_elsewhere())
    assert [token.id for token in run(made(engine, 4))] == [4]


def test_the_worker_sees_neither_our_packages_nor_our_folder() -> None:
    command = worker_command(Path("/e/bin/python"), "worker_openvino.py", {"folder": "/m"})
    assert command[:2] == ["/e/bin/python", "-I"]
    assert Path(command[2]).is_file()
    assert json.loads(command[3]) == {"folder": "/m"}


@pytest.mark.parametrize(("given", "number"), [("3", 3), ("", 0), ("2,1", 0)])
def test_the_worker_takes_as_many_threads_as_are_given(
    monkeypatch: pytest.MonkeyPatch, given: str, number: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads() == number

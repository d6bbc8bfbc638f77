"""Processes that read requests: the same plans, and nobody waits for another's slow template."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from finery.errors import FineryError
from finery.inference.answering import Limits
from finery.inference.engines.stub import PREFIX, stub_renderer
from finery.inference.protocol import reading
from finery.inference.protocol.refusals import RefusedError
from finery.inference.server_priority import LOW
from finery.inference.server_readers import NICE, ReaderPool

T = TypeVar("T")
LIMITS = Limits(4096, frozenset({"logprobs"}), stub_renderer().stop_ids, "stub")
CHAT = "/v1/chat/completions"
# A conversation of its own choosing makes this template take for ever.
SLOW = (
    "{% for m in messages %}{% if m['content'] == 'slow' %}{% for a in range(99999) %}"
    "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
    "{% if m['content'] == 'long' %}{% for a in range(2000) %}{% for b in range(20000) %}"
    "{% endfor %}{% endfor %}{% endif %}"
    "{% if m['content'] == 'huge' %}{{ 'x' * 99999999999 }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def body(text: str = "Hello", **more: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}], "seed": 1, **more}).encode()


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tokenizer whose template can be made slow."""
    folder = tmp_path_factory.mktemp("slow")
    tokenizer = stub_renderer().tokenizer
    tokenizer.chat_template = SLOW
    tokenizer.save_pretrained(folder)
    return str(folder)


@asynccontextmanager
async def pool_of(renderer: str, seconds: float = 20.0) -> AsyncIterator[ReaderPool]:
    pool = ReaderPool(renderer, seconds)
    try:
        await pool.start()
        yield pool
    finally:
        await pool.close()


def with_pool(
    renderer: str, work: Callable[[ReaderPool], Awaitable[T]], seconds: float = 20.0
) -> T:
    async def run() -> T:
        async with pool_of(renderer, seconds) as pool:
            return await work(pool)

    return asyncio.run(run())


def pids_of(pool: ReaderPool) -> list[int]:
    """The readers that are free."""
    return [one.process.pid for one in pool._free._queue]  # type: ignore[attr-defined]


def test_a_reader_makes_the_plans_that_are_made_here() -> None:
    bodies = [
        (CHAT, body(n=2, stop=["a"], stream=True, logprobs=True, model="m")),
        ("/v1/completions", b'{"prompt": ["a", "b"], "echo": true, "seed": 1}'),
        ("/chat/completions", body()),
        ("/score", b'{"input_data": ["a"], "params": {"seed": 1}}'),
    ]

    async def work(pool: ReaderPool) -> list[reading.Wanted]:
        return [await pool.read(path, one, {}, PREFIX, LIMITS) for path, one in bodies]

    renderer = stub_renderer()
    expected = [reading.read(path, one, {}, renderer, LIMITS) for path, one in bodies]
    assert with_pool(PREFIX, work) == expected


def test_a_refusal_comes_back_whole() -> None:
    async def work(pool: ReaderPool) -> None:
        with pytest.raises(RefusedError) as told:
            await pool.read(CHAT, b'{"messages": [], "odd": 1}', {}, PREFIX, LIMITS)
        assert [place for place, _ in told.value.refusal.details] == ["odd", "messages"]
        with pytest.raises(RefusedError) as told:
            headers = {"extra-parameters": "maybe", "authorization": "Bearer secret"}
            await pool.read("/chat/completions", body(), headers, PREFIX, LIMITS)
        assert told.value.refusal.param == "extra-parameters"

    with_pool(PREFIX, work)


def test_a_template_that_takes_for_ever_holds_up_nobody_and_is_ended(slow_model: str) -> None:
    async def work(pool: ReaderPool) -> float:
        slow = [
            asyncio.create_task(pool.read(CHAT, body("slow"), {}, slow_model, LIMITS))
            for _ in range(2)
        ]
        await asyncio.sleep(0)
        longest, most = 0.0, time.monotonic() + 1.0
        while time.monotonic() < most:  # meanwhile the loop turns
            start = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - start)
        wanted = await pool.read(CHAT, body("quick"), {}, slow_model, LIMITS)
        assert not any(task.done() for task in slow), "the quick one did not wait for them"
        assert wanted.plans[0].generation.prompt
        for task in slow:
            with pytest.raises(RefusedError, match="could not be rendered within 6 s") as told:
                await task
            assert told.value.refusal.status == 400
        assert await pool.read(CHAT, body("after"), {}, slow_model, LIMITS)
        return longest

    assert with_pool(slow_model, work, seconds=6.0) < 0.5


def test_a_slow_request_computes_with_a_low_priority_and_its_reader_lives_on(
    slow_model: str,
) -> None:
    def priorities(pid: int) -> list[int]:
        threads = Path(f"/proc/{pid}/task").iterdir()
        return sorted(os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in threads)

    async def work(pool: ReaderPool) -> None:
        before = pids_of(pool)
        slow = asyncio.create_task(pool.read(CHAT, body("long"), {}, slow_model, LIMITS))
        while not any(LOW in priorities(pid) for pid in before):
            assert not slow.done(), "it computed at the usual priority to its end"
            await asyncio.sleep(0.005)
        (its,) = [pid for pid in before if LOW in priorities(pid)]
        assert os.getpriority(os.PRIO_PROCESS, its) == NICE, "what comes next is raised again"
        assert (await slow).plans
        while its not in pids_of(pool):
            await asyncio.sleep(0.005)
        for _ in range(3):  # all readers: the last one freed is the first one taken
            asked = (pool.read(CHAT, body("next"), {}, slow_model, LIMITS) for _ in range(6))
            assert all(one.plans for one in await asyncio.gather(*asked))
        assert set(before) <= set(pids_of(pool)), "none had to be started in its place"
        assert LOW not in priorities(its)

    with_pool(slow_model, work)


def test_a_template_that_takes_all_memory_is_refused(slow_model: str) -> None:
    async def work(pool: ReaderPool) -> None:
        with pytest.raises(RefusedError) as told:
            await pool.read(CHAT, body("huge"), {}, slow_model, LIMITS)
        assert told.value.refusal.status == 400
        assert await pool.read(CHAT, body("after"), {}, slow_model, LIMITS)

    with_pool(slow_model, work)


def test_a_reader_that_dies_is_replaced_and_its_request_read_again() -> None:
    async def work(pool: ReaderPool) -> None:
        for pid in pids_of(pool):
            os.kill(pid, signal.SIGKILL)
        wanted = await asyncio.gather(
            *(pool.read(CHAT, body(), {}, PREFIX, LIMITS) for _ in range(8)),
            return_exceptions=True,
        )
        assert any(isinstance(one, reading.Wanted) for one in wanted)
        assert await pool.read(CHAT, body(), {}, PREFIX, LIMITS)

    with_pool(PREFIX, work)


def test_a_client_who_leaves_does_not_mix_up_the_answers() -> None:
    async def work(pool: ReaderPool) -> None:
        for number in range(20):
            left = asyncio.create_task(pool.read(CHAT, body("left"), {}, PREFIX, LIMITS))
            await asyncio.sleep(0)
            left.cancel()
            wanted = await pool.read(CHAT, body(f"number {number}"), {}, PREFIX, LIMITS)
            text = stub_renderer().decode(wanted.plans[0].generation.prompt)
            assert f"number {number}" in text
            await asyncio.gather(left, return_exceptions=True)

    with_pool(PREFIX, work)


def test_large_bodies_are_read_one_at_a_time_and_small_ones_beside_them() -> None:
    large = body("x" * 300_000)

    async def work(pool: ReaderPool) -> None:
        first = [asyncio.create_task(pool.read(CHAT, large, {}, PREFIX, LIMITS)) for _ in range(3)]
        await asyncio.sleep(0)
        assert await pool.read(CHAT, body(), {}, PREFIX, LIMITS)
        assert not all(task.done() for task in first)
        for task in first:
            with pytest.raises(RefusedError, match="context"):
                await task

    with_pool(PREFIX, work)


def test_readers_end_with_the_pool_and_do_not_know_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINERY_REPLICA_KEY", "secret")

    async def work(pool: ReaderPool) -> list[int]:
        pids = pids_of(pool)
        for pid in pids:
            assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()
        return pids

    for pid in with_pool(PREFIX, work):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_renderer_that_cannot_be_loaded_is_said_at_once(tmp_path: Path) -> None:
    async def work(pool: ReaderPool) -> None:
        """Never reached."""

    with pytest.raises(FineryError, match="holds no tokenizer"):
        with_pool(str(tmp_path), work)


def test_another_renderer_is_loaded_when_it_is_needed(slow_model: str) -> None:
    async def work(pool: ReaderPool) -> None:
        await pool.warm(slow_model)
        assert await pool.read(CHAT, body(), {}, slow_model, LIMITS)
        with pytest.raises(RefusedError, match="holds no tokenizer"):
            await pool.warm("/no/such/folder")

    with_pool(PREFIX, work)

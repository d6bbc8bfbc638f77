"""What a step takes, and what the model's thread does with rows, without a model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from finery.inference.engine import EngineLostError, Generation, Token
from finery.inference.engines import torch_loop
from finery.inference.engines.torch_loop import ModelThread, paced, plan
from finery.inference.engines.torch_rows import Row, Span


def row(pending: int, known: int = 0, **wanted: Any) -> Row:
    made = Row(Generation(tuple(range(known + pending)), 4, **wanted))
    made.known = known
    return made


def taken(spans: Sequence[Span]) -> list[int]:
    return [span.count for span in spans]


def test_a_step_takes_one_token_of_each_answering_row_and_one_piece_of_the_prompts() -> None:
    rows = [row(100), row(1, 9), row(100), row(1, 30)]
    spans = plan(rows, 120)
    assert [span.row for span in spans] == [rows[1], rows[3], rows[0], rows[2]]
    assert taken(spans) == [1, 1, 99, 21]


def test_the_last_token_of_a_prompt_is_a_step_of_its_own() -> None:
    assert taken(plan([row(100)], 512)) == [99]
    assert taken(plan([row(2)], 512)) == [1]


def test_pieces_are_larger_while_nobody_waits_for_them() -> None:
    assert taken(plan([row(2000)], 10_000)) == [torch_loop.PIECE]
    assert taken(plan([row(2000), row(1, 3)], 10_000)) == [1, torch_loop.SHARED_PIECE]


def test_a_cache_that_cannot_go_on_inside_a_prompt_reads_it_whole() -> None:
    assert taken(plan([row(2000), row(1, 3), row(50)], None)) == [1, 2000]


def test_a_span_knows_whether_the_next_token_follows_it() -> None:
    one = row(10, 5)
    assert not Span(one, 9).last
    assert Span(one, 10).last
    assert Span(one, 2).ids == [5, 6]


@pytest.mark.parametrize(
    ("piece", "seconds", "then"),
    [(128, 0.5, 64), (64, 3.0, 64), (128, 0.2, 128), (128, 0.01, 256), (512, 0.01, 512)],
)
def test_slow_steps_take_less_of_a_prompt_and_quick_ones_more(
    piece: int, seconds: float, then: int
) -> None:
    assert paced(piece, seconds) == then


class Counting:
    """A runner whose next token is one more than the last; has room for `room` rows."""

    context = 100
    vocabulary = 64
    device = torch.device("cpu")
    pieces = True

    def __init__(self, room: int = 9) -> None:
        self.room = room
        self.held: list[Row] = []
        self.most = 0
        self.gate = threading.Event()
        self.gate.set()

    def place(self, row: Row) -> bool:
        if len(self.held) == self.room:
            return False
        self.held.append(row)
        self.most = max(self.most, len(self.held))
        return True

    def free(self, row: Row) -> None:
        self.held.remove(row)

    def forget(self, adapter: Any) -> None:
        """Nothing is kept."""

    def forward(self, spans: Sequence[Span]) -> torch.Tensor:
        assert self.gate.wait(10)
        ends = [span.ids[-1] for span in spans if span.last]
        for span in spans:
            span.row.known += span.count
        return torch.nn.functional.one_hot(torch.tensor(ends, dtype=torch.long) + 1, 64).float() * 9


async def read(thread: ModelThread, made: Row) -> list[int]:
    made.loop = asyncio.get_running_loop()
    thread.add(made)
    found = []
    while isinstance(item := await made.ready.get(), Token):
        found.append(item.id)
    if item is not None:
        raise item
    return found


def test_rows_are_answered_in_line_where_the_cache_has_no_room_for_all() -> None:
    async def ask() -> list[list[int]]:
        runner = Counting(room=2)
        thread = ModelThread(runner, at_once=8)
        rows = [Row(Generation((number,), 3)) for number in range(5)]
        found = await asyncio.gather(*[read(thread, one) for one in rows])
        thread.close()
        assert runner.most == 2
        assert runner.held == []
        return found

    assert asyncio.run(ask()) == [[n + 1, n + 2, n + 3] for n in range(5)]


def test_prompts_are_read_by_all_threads_and_answers_made_by_as_many_as_are_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[int] = []
    monkeypatch.setattr(torch_loop, "use_threads", used.append)
    monkeypatch.setattr(torch_loop.Pace, "threads", lambda self, rows: 10 * rows)

    async def ask() -> None:
        thread = ModelThread(Counting(), at_once=8, counts=(1, 4))
        await read(thread, Row(Generation((1, 2, 3), 2)))
        thread.close()

    asyncio.run(ask())
    assert used == [4, 10, 10]


def test_a_row_that_nobody_reads_leaves_before_the_next_step() -> None:
    async def ask() -> tuple[int, int]:
        runner = Counting()
        thread = ModelThread(runner, at_once=8)
        runner.gate.clear()
        made = Row(Generation((1,), 60), loop=asyncio.get_running_loop())
        thread.add(made)
        made.left = True
        runner.gate.set()
        await read(thread, Row(Generation((5,), 2)))
        thread.close()
        return made.made, len(runner.held)

    made, held = asyncio.run(ask())
    assert made <= 1
    assert held == 0


def test_a_row_that_left_while_it_waited_is_never_begun() -> None:
    async def ask() -> int:
        runner = Counting(room=1)
        thread = ModelThread(runner, at_once=8)
        first = asyncio.create_task(read(thread, Row(Generation((1,), 30))))
        await asyncio.sleep(0)
        waiting = Row(Generation((1,), 30), left=True, loop=asyncio.get_running_loop())
        thread.add(waiting)
        await first
        await read(thread, Row(Generation((5,), 2)))
        thread.close()
        return waiting.made

    assert asyncio.run(ask()) == 0


def test_work_is_done_between_two_steps() -> None:
    async def ask() -> bool:
        thread = ModelThread(Counting(), at_once=8)
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        thread.call(lambda: loop.call_soon_threadsafe(done.set) and None)
        await asyncio.wait_for(done.wait(), 10)
        thread.close()
        return done.is_set()

    assert asyncio.run(ask())


def test_a_step_that_hangs_is_told_and_new_rows_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch_loop, "STUCK_SECONDS", 0.0)

    async def ask() -> str:
        runner = Counting()
        thread = ModelThread(runner, at_once=8)
        runner.gate.clear()
        thread._inbox.put(Row(Generation((1,), 3), loop=asyncio.get_running_loop()))
        while not (reason := thread.health()):
            await asyncio.sleep(0)
        with pytest.raises(EngineLostError, match="one step has been running"):
            thread.add(Row(Generation((1,), 3)))
        runner.gate.set()
        thread.close()
        return reason

    assert "one step has been running" in asyncio.run(ask())


def test_a_reader_whose_loop_has_gone_does_not_end_the_others() -> None:
    runner = Counting()
    thread = ModelThread(runner, at_once=8)
    gone = asyncio.new_event_loop()
    gone.close()
    thread.add(Row(Generation((1,), 60), loop=gone))
    assert asyncio.run(read(thread, Row(Generation((7,), 2)))) == [8, 9]
    assert thread.health() == ""
    thread.close()


def test_closing_does_not_wait_for_ever_for_a_step_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch_loop, "CLOSE_SECONDS", 0.05)

    async def ask() -> BaseException:
        runner = Counting()
        thread = ModelThread(runner, at_once=8)
        runner.gate.clear()
        reading = asyncio.create_task(read(thread, Row(Generation((1,), 3))))
        while thread._step_began is None:
            await asyncio.sleep(0)
        await asyncio.to_thread(thread.close)
        (ended,) = await asyncio.gather(reading, return_exceptions=True)
        runner.gate.set()
        thread._thread.join()
        assert isinstance(ended, BaseException)
        return ended

    ended = asyncio.run(ask())
    assert isinstance(ended, EngineLostError)
    assert "hung" in str(ended)

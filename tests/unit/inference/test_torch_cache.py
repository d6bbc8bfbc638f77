"""Who gets which slot, what it knows already, and how much memory all take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from finery.inference.engine import Generation
from finery.inference.engines.torch_cache import SMALLEST, CacheShape, Slots, common, write_index
from finery.inference.engines.torch_rows import Row

SHAPE = CacheShape(2, 1, 4, torch.float32, torch.device("cpu"))


def slots(count: int = 4, budget: int = 10_000, **options: Any) -> Slots:
    return Slots(SHAPE, count, budget, **options)


def row(prompt: range | tuple[int, ...], new: int = 10, adapter: Any = None) -> Row:
    return Row(Generation(tuple(prompt), new), adapter=adapter)


def read(cache: Slots, made: Row) -> Row:
    """Place a row and write its tokens' ids where its keys and values would be."""
    assert cache.place(made)
    for layer in cache.layers:
        for place in range(made.known, len(made.tokens)):
            layer[made.place, :, place] = made.tokens[place]
    made.known = len(made.tokens)
    return made


def held(cache: Slots, made: Row, count: int) -> list[list[float]]:
    return [layer[made.place, 0, :count, 0].tolist() for layer in cache.layers]


def test_the_next_turn_of_a_conversation_goes_on_in_its_slot() -> None:
    cache = slots()
    first = read(cache, row(range(20)))
    place = first.place
    cache.free(first)
    turn = row(range(30))
    assert cache.place(turn)
    assert (turn.place, turn.known) == (place, 20)


def test_a_shared_beginning_is_copied_and_its_first_owner_keeps_it() -> None:
    cache = slots()
    first = read(cache, row(range(20)))
    other = row((*range(12), 77, 78))
    assert cache.place(other)
    assert other.place != first.place
    assert other.known == 12
    assert held(cache, other, 12) == [list(map(float, range(12)))] * 2
    assert held(cache, first, 20) == [list(map(float, range(20)))] * 2


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    cache = slots()
    cache.free(read(cache, row(range(20))))
    again = row(range(20))
    assert cache.place(again)
    assert again.known == 19


def test_keys_made_under_an_adapter_serve_no_other() -> None:
    cache = slots()
    one, two = object(), object()
    cache.free(read(cache, row(range(20), adapter=one)))
    for adapter, known in ((two, 0), (None, 0), (one, 19)):
        made = row(range(20), adapter=adapter)
        assert cache.place(made)
        assert made.known == known
    cache.forget(one)


def test_the_slot_that_was_used_longest_ago_is_given_away_first() -> None:
    cache = slots(count=3)
    for start in (100, 200, 300):
        cache.free(read(cache, row(range(start, start + 20))))
    cache.free(read(cache, row(range(400, 420))))  # takes the place of the first
    for start, known in ((300, 19), (200, 19), (100, 0)):
        made = row(range(start, start + 20))
        assert cache.place(made)
        assert made.known == known, start


def test_there_is_no_room_where_every_slot_has_a_row() -> None:
    cache = slots(count=2)
    first = read(cache, row(range(5)))
    read(cache, row(range(50, 55)))
    assert not cache.place(row(range(9)))
    cache.free(first)
    assert cache.place(row(range(9)))


def test_rows_wait_where_together_they_could_outgrow_the_budget() -> None:
    cache = slots(budget=1000)
    first = read(cache, row(range(100), new=500))
    assert not cache.place(row(range(100, 200), new=500))
    cache.free(first)
    assert cache.place(row(range(100, 200), new=500))


def test_a_row_alone_is_never_refused_whatever_ended_rows_hold() -> None:
    cache = slots(count=4, budget=1000)
    for start in (1000, 2000, 3000):
        cache.free(read(cache, row(range(start, start + 300), new=1)))
    large = row(range(900), new=100)
    assert cache.place(large)
    assert sum(slot.written for slot in cache._slots) <= 1000


def test_slots_grow_and_keep_what_they_hold() -> None:
    cache = slots()
    first = read(cache, row(range(50)))
    assert cache.capacity == SMALLEST
    assert cache.place(row(range(1000, 1900)))
    assert cache.capacity == 1024
    assert held(cache, first, 50) == [list(map(float, range(50)))] * 2


def test_without_reuse_every_prompt_is_read_whole() -> None:
    cache = slots(reuse=False)
    cache.free(read(cache, row(range(20))))
    made = row(range(20))
    assert cache.place(made)
    assert made.known == 0


def test_a_tokens_memory_is_counted_in_all_layers() -> None:
    assert SHAPE.token_bytes == 2 * 2 * 1 * 4 * 4


@pytest.mark.parametrize(
    ("first", "second", "length"),
    [((1, 2, 3), (1, 2, 4), 2), ((1, 2), (1, 2, 3), 2), ((), (1,), 0), ((5,), (6,), 0)],
)
def test_a_common_beginning_is_counted(first: Any, second: Any, length: int) -> None:
    assert common(np.array(first), np.array(second)) == length


def test_keys_and_values_of_a_token_go_to_its_slot_and_position() -> None:
    layer = torch.zeros(3, 4, 8, 2)  # two key heads, two value heads
    index = write_index([(2, 5, 1), (0, 0, 2)], heads=4, capacity=8)
    values = torch.arange(1.0, 13.0)[:, None].expand(12, 2)
    layer.view(-1, 2).index_copy_(0, index, values)
    # every key head lies beside its value head
    assert layer[2, :, 5, 0].tolist() == [1, 3, 2, 4]
    assert layer[0, :, 0, 0].tolist() == [5, 7, 6, 8]
    assert layer[0, :, 1, 1].tolist() == [9, 11, 10, 12]
    assert layer.count_nonzero() == 24

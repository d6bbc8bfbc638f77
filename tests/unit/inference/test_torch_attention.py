"""Attention over slots is attention; rows are put together where that costs less."""

from __future__ import annotations

import pytest
import torch

from finery.inference.engines.torch_attention import (
    CALL,
    Group,
    Piece,
    Step,
    attend,
    grouped,
)
from finery.inference.engines.torch_cache import write_index

SIZE = 8


def test_near_rows_side_by_side_are_one_call() -> None:
    assert grouped([(0, 100), (1, 101), (2, 90)]) == [Group(0, 0, (100, 101, 90))]


def test_a_slot_between_rows_parts_them() -> None:
    assert grouped([(0, 9), (2, 9), (3, 9)]) == [Group(0, 0, (9,)), Group(1, 2, (9, 9))]


def test_a_long_row_does_not_make_the_short_ones_read_its_length() -> None:
    groups = grouped([(0, 10), (1, 10), (2, 10 + 10 * CALL), (3, 10)])
    assert [group.lengths for group in groups] == [(10, 10), (10 + 10 * CALL,), (10,)]


def test_no_rows_are_no_calls() -> None:
    assert grouped([]) == []


def naive(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
) -> torch.Tensor:
    """One query (heads, size) over the keys (kv heads, length, size) up to its own."""
    share = len(query) // len(key)
    begin = 0 if window is None else max(0, key.shape[1] - window)
    out = []
    for head, q in enumerate(query):
        k, v = key[head // share, begin:], value[head // share, begin:]
        out.append(torch.softmax((k @ q) * 0.3, 0) @ v)
    return torch.cat(out)


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("lengths", [(7, 7, 7), (3, 12, 8), (1, 30, 2)])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 0.03)])
def test_every_token_attends_to_its_own_row_up_to_itself(
    heads: int,
    window: int | None,
    lengths: tuple[int, ...],
    dtype: torch.dtype,
    close: float,
) -> None:
    torch.manual_seed(1)
    kv, capacity = 2, 32
    layer = torch.randn(5, 2 * kv, capacity, SIZE).to(dtype)
    pieces = [Piece(3, 3, 0, 6), Piece(9, 4, 4, 9)]  # from the start, and going on
    places = [(slot, length - 1, 1) for slot, length in enumerate(lengths)]
    places += [(piece.slot, piece.start, piece.count) for piece in pieces]
    index = write_index(places, 2 * kv, capacity)
    groups = grouped([(slot, length) for slot, length in enumerate(lengths)])
    step = Step(torch.empty(0), index, groups, pieces)
    qkv = torch.randn(3 + 6 + 9, heads + 2 * kv, SIZE).to(dtype).float()
    out = attend(step, layer, qkv, heads, 0.3, window)
    ends = [(slot, length) for slot, length in enumerate(lengths)]
    ends += [(p.slot, p.start + i + 1) for p in pieces for i in range(p.count)]
    for token, (slot, end) in enumerate(ends):
        assert torch.equal(layer[slot, ::2, end - 1].float(), qkv[token, heads:][:kv])
        assert torch.equal(layer[slot, 1::2, end - 1].float(), qkv[token, heads:][kv:])
        key, value = layer[slot, ::2, :end].float(), layer[slot, 1::2, :end].float()
        wanted = naive(qkv[token, :heads], key, value, window)
        assert torch.allclose(out[token].float(), wanted, atol=close), (token, slot, end)

"""Packed sequences hold every row once, whole, and waste little."""

from __future__ import annotations

import numpy as np
import pytest

from finery.chat.pack import pack


@pytest.mark.parametrize("seed", range(20))
def test_every_row_is_in_one_sequence_and_none_is_over_capacity(seed: int) -> None:
    random = np.random.default_rng(seed)
    capacity = int(random.integers(8, 300))
    lengths = random.integers(1, capacity + 1, int(random.integers(1, 200))).tolist()
    groups = pack(lengths, capacity)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in group) <= capacity for group in groups)
    assert all(group == sorted(group) for group in groups)
    assert [group[0] for group in groups] == sorted(group[0] for group in groups)
    least = -(-sum(lengths) // capacity)
    assert len(groups) <= 2 * least  # all bins but one are more than half full


def test_no_two_sequences_could_have_been_one() -> None:
    random = np.random.default_rng(5)
    lengths = random.integers(1, 40, 300).tolist()
    sums = sorted(sum(lengths[i] for i in group) for group in pack(lengths, 64))
    assert sums[0] + sums[1] > 64


def test_the_same_rows_pack_the_same_way() -> None:
    lengths = [5, 3, 9, 5, 5, 1, 2, 9]
    assert pack(lengths, 10) == pack(list(lengths), 10)
    assert pack([4, 6, 5, 5], 10) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("lengths", [[], [7], [10, 10]])
def test_few_rows_and_full_rows_are_packed_too(lengths: list[int]) -> None:
    assert pack(lengths, 10) == [[i] for i in range(len(lengths))]


def test_a_row_over_the_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than the 10 tokens"):
        pack([3, 11], 10)

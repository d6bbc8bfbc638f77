"""Batches put every token, position and target where the rows say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from finery.chat.rows import TokenRows, make_rows
from finery.model.batch import Batch, make_batch

ROWS = make_rows(
    [
        ([5, 6, 7, 8], [False, False, True, True], 1),
        ([9], [True], 2),
        ([1, 2, 3], [True, True, False], 3),
    ]
)


def test_documents_lie_end_to_end_with_positions_of_their_own() -> None:
    batch = make_batch(ROWS, [0, 2])
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 1, 2, 3]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert batch.lengths == (4, 3)
    assert batch.attention_mask is None
    assert batch.positions.tolist() == [1, 2, 4]
    assert batch.targets.tolist() == [7, 8, 2]
    assert batch.tokens == 7


def test_padded_rows_lie_side_by_side_and_padding_is_masked_by_position() -> None:
    batch = make_batch(ROWS, [2, 0], padded=True, pad_id=8)  # 8 is a real token of a row too
    assert batch.input_ids.tolist() == [[1, 2, 3, 8], [5, 6, 7, 8]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0], [0, 1, 2, 3]]
    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.lengths is None
    assert batch.positions.tolist() == [0, 5, 6]
    assert batch.targets.tolist() == [2, 7, 8]
    assert batch.tokens == 7


def test_rows_are_padded_to_the_least_length_asked_for() -> None:
    assert make_batch(ROWS, [0, 2], padded=True, pad_to=6).input_ids.shape == (2, 6)
    assert make_batch(ROWS, [0], padded=True, pad_to=2).input_ids.shape == (1, 4)
    assert make_batch(ROWS, [0, 1, 2], pad_to=50).input_ids.shape == (1, 8)


def test_a_row_of_one_token_trains_nothing_and_disturbs_nothing() -> None:
    batch = make_batch(ROWS, [1, 0])
    assert batch.targets.tolist() == [7, 8]
    assert batch.positions.tolist() == [2, 3]
    assert make_batch(ROWS, [1]).targets.tolist() == []


def test_every_token_is_a_target_when_a_whole_row_is_scored() -> None:
    batch = make_batch(ROWS, [0, 2], every_token=True)
    assert batch.targets.tolist() == [6, 7, 8, 2, 3]
    assert batch.positions.tolist() == [0, 1, 2, 4, 5]


def random_rows(seed: int) -> TokenRows:
    random = np.random.default_rng(seed)
    return make_rows(
        (
            random.integers(0, 50, length),
            random.random(length) < random.random(),
            number,
        )
        for number, length in enumerate(random.integers(1, 20, 12).tolist())
    )


def follow(batch: Batch) -> list[tuple[int, int]]:
    """Each target with the token that predicts it."""
    flat = batch.input_ids.flatten()
    return list(zip(flat[batch.positions].tolist(), batch.targets.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(15))
def test_both_layouts_train_the_same_next_tokens_of_the_same_rows(seed: int) -> None:
    rows = random_rows(seed)
    chosen = np.random.default_rng(seed).permutation(len(rows))[:6].tolist()
    wanted = [
        (int(rows.row_ids(i)[t]), int(rows.row_ids(i)[t + 1]))
        for i in chosen
        for t in range(len(rows.row_ids(i)) - 1)
        if rows.row_trained(i)[t + 1]
    ]
    documents = make_batch(rows, chosen)
    padded = make_batch(rows, chosen, padded=True, pad_id=int(rows.ids[0]), pad_to=seed)
    assert follow(documents) == follow(padded) == wanted
    assert documents.tokens == padded.tokens == sum(rows.lengths[i] for i in chosen)
    # a target is the token right after the one that predicts it, in the same document
    flat = documents.input_ids.flatten()
    assert torch.equal(flat[documents.positions + 1], documents.targets)
    after = documents.position_ids.flatten()[documents.positions + 1]
    assert torch.equal(after, documents.position_ids.flatten()[documents.positions] + 1)


def test_a_batch_moves_as_a_whole() -> None:
    batch = make_batch(ROWS, [0, 2], padded=True)
    moved = batch.to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 5
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert moved.lengths == batch.lengths

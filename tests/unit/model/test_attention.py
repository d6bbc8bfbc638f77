"""Attention over packed documents equals attention under a dense block-diagonal mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from finery.model.attention import attention, document_mask

SHAPES = [(4, 4), (4, 2), (8, 1)]  # heads, key-value heads
LENGTHS = [(7,), (3, 5), (1, 1, 9, 2), (16, 1, 4)]
MODULE: Any = torch.nn.Module()


def dense(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float, window: int
) -> Tensor:
    """Softmax over an explicit mask, written out in float64."""
    total = sum(lengths)
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    distance = torch.arange(total)[:, None] - torch.arange(total)[None, :]
    seen = (document[:, None] == document[None, :]) & (distance >= 0) & (distance < window)
    repeat = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(repeat, dim=1) for t in (key, value))
    scores = (query @ key.transpose(2, 3)) * scale
    weights = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1)
    return (weights @ value).transpose(1, 2)


def inputs(
    heads: int, kv_heads: int, lengths: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [
        torch.randn(1, h, sum(lengths), 8, generator=random, dtype=dtype).requires_grad_(True)
        for h in (heads, kv_heads, kv_heads)
    ]


@pytest.mark.parametrize("window", [None, 3, 8, 1000])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("heads", "kv_heads"), SHAPES)
def test_values_and_gradients_are_those_of_a_dense_mask(
    heads: int, kv_heads: int, lengths: tuple[int, ...], window: int | None
) -> None:
    ours, theirs = inputs(heads, kv_heads, lengths), inputs(heads, kv_heads, lengths)
    weights = torch.randn(1, sum(lengths), heads, 8, dtype=torch.float64)
    found, nothing = attention(
        MODULE, *ours, document_mask(lengths), scaling=0.3, sliding_window=window
    )
    wanted = dense(*theirs, lengths, 0.3, window or 10**6)
    assert nothing is None
    torch.testing.assert_close(found, wanted)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


BF16_LENGTHS = [(40,), (256, 3), (300, 1, 513), (1600, 30)]  # below, at and beyond the blocks


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("lengths", BF16_LENGTHS)
@pytest.mark.parametrize(("heads", "kv_heads"), SHAPES)
def test_in_bf16_on_a_cpu_values_and_gradients_keep_bf16_accuracy(
    heads: int, kv_heads: int, lengths: tuple[int, ...], window: int | None
) -> None:
    low = inputs(heads, kv_heads, lengths, torch.bfloat16)
    high = [tensor.detach().double().requires_grad_(True) for tensor in low]
    weights = torch.randn(1, sum(lengths), heads, 8, generator=torch.Generator().manual_seed(2))
    found, _ = attention(MODULE, *low, document_mask(lengths), scaling=0.3, sliding_window=window)
    wanted = dense(*high, lengths, 0.3, window or 10**6)
    assert found.dtype == torch.bfloat16
    assert relative(found, wanted) < 0.01
    (found.double() * weights).sum().backward()
    (wanted * weights).sum().backward()
    for mine, other in zip(low, high, strict=True):
        assert mine.grad is not None and other.grad is not None
        assert mine.grad.dtype == torch.bfloat16
        assert relative(mine.grad, other.grad) < 0.02


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.detach().double() - wanted.detach()).norm() / wanted.detach().norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_masks_made_while_answering_serve_training_afterwards(dtype: torch.dtype) -> None:
    lengths = (71, 33)
    given = inputs(4, 2, lengths, dtype)
    mask = document_mask(lengths)
    with torch.inference_mode():
        first, _ = attention(MODULE, *given, mask, sliding_window=20)
        plain, _ = attention(MODULE, *given, mask)
    for before, window in ((first, 20), (plain, None)):
        again, _ = attention(MODULE, *given, mask, sliding_window=window)
        again.float().sum().backward()
        assert torch.equal(before, again.detach())


def test_a_change_in_one_document_leaves_the_others_bit_for_bit() -> None:
    lengths = (5, 6, 4)
    query, key, value = inputs(4, 2, lengths)
    before, _ = attention(MODULE, query, key, value, document_mask(lengths))
    with torch.no_grad():
        for tensor in (query, key, value):
            tensor[:, :, 5:11] += 1.0
    after, _ = attention(MODULE, query, key, value, document_mask(lengths))
    assert torch.equal(before[:, :5], after[:, :5])
    assert torch.equal(before[:, 11:], after[:, 11:])
    assert not torch.equal(before[:, 5:11], after[:, 5:11])


def test_later_tokens_do_not_change_earlier_ones() -> None:
    lengths = (9,)
    query, key, value = inputs(4, 4, lengths)
    before, _ = attention(MODULE, query, key, value, document_mask(lengths))
    with torch.no_grad():
        key[:, :, 6:] += 1.0
        value[:, :, 6:] -= 1.0
    after, _ = attention(MODULE, query, key, value, document_mask(lengths))
    assert torch.equal(before[:, :6], after[:, :6])


def test_any_other_mask_is_transformers_own_attention() -> None:
    """Padded batches and generation: a boolean mask is not taken for document lengths."""
    query, key, value = inputs(4, 4, (6,))
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    mask[..., :2] = False
    mask[..., 0, 0] = mask[..., 1, 1] = True
    module: Any = torch.nn.Module()
    module.is_causal = True
    found, _ = attention(module, query, key, value, mask, scaling=0.5)
    scores = (query @ key.transpose(2, 3)) * 0.5
    wanted = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ value
    torch.testing.assert_close(found, wanted.transpose(1, 2))


def test_lengths_ride_in_the_place_of_the_mask_as_four_dimensions() -> None:
    mask = document_mask((3, 70_000, 1))
    assert mask.shape == (1, 1, 1, 3)
    assert mask.dtype == torch.int32
    assert mask.flatten().tolist() == [3, 70_000, 1]


def test_dropout_drops_attention_only_when_asked_for() -> None:
    query, key, value = inputs(4, 4, (8, 8))
    mask = document_mask((8, 8))
    torch.manual_seed(0)
    with_dropout, _ = attention(MODULE, query, key, value, mask, dropout=0.5)
    torch.manual_seed(0)
    again, _ = attention(MODULE, query, key, value, mask, dropout=0.5)
    without, _ = attention(MODULE, query, key, value, mask)
    assert torch.equal(with_dropout, again)
    assert not torch.allclose(with_dropout, without)

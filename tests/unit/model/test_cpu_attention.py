"""Block attention in bf16 gives causal attention, values and gradients, whatever the length."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from finery.model.cpu_attention import BLOCK, LONGEST, block_attention, fits

WIDTH = 32


def tensors(heads: int, shared: int, length: int, seed: int = 0) -> list[Tensor]:
    """Query, key, value and the slope of the output, in bf16."""
    random = torch.Generator().manual_seed(seed)
    sizes = (heads, shared, shared, heads)
    made = [torch.randn(1, n, length, WIDTH, generator=random).bfloat16() for n in sizes]
    return [*(t.requires_grad_() for t in made[:3]), made[3]]


def exact(query: Tensor, key: Tensor, value: Tensor, slope: Tensor, scale: float) -> list[Tensor]:
    """Output and gradients by torch's own attention in float64."""
    inputs = [t.detach().double().requires_grad_() for t in (query, key, value)]
    out = F.scaled_dot_product_attention(*inputs, is_causal=True, scale=scale, enable_gqa=True)
    return [out.detach(), *torch.autograd.grad(out, inputs, slope.double())]


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("length", [1, 2, 17, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 40])
@pytest.mark.parametrize(("heads", "shared"), [(2, 2), (6, 2), (3, 1)])
def test_it_is_causal_attention_within_16_bit_rounding(
    heads: int, shared: int, length: int
) -> None:
    query, key, value, slope = tensors(heads, shared, length)
    out = block_attention(query, key, value, None)
    found = [out.detach(), *torch.autograd.grad(out, (query, key, value), slope)]
    wanted = exact(query, key, value, slope, WIDTH**-0.5)
    for one, two in zip(found, wanted, strict=True):
        assert one.dtype == torch.bfloat16
        assert float(two.norm()) == 0 or relative(one, two) < 0.01


def test_the_scale_that_a_family_sets_is_used_both_ways() -> None:
    query, key, value, slope = tensors(2, 1, 40)
    out = block_attention(query, key, value, 0.37)
    found = [out.detach(), *torch.autograd.grad(out, (query, key, value), slope)]
    for one, two in zip(found, exact(query, key, value, slope, 0.37), strict=True):
        assert relative(one, two) < 0.01


def test_a_later_token_changes_nothing_before_it() -> None:
    query, key, value, _ = tensors(4, 2, BLOCK + 30)
    before = block_attention(query, key, value, None)
    with torch.no_grad():
        for tensor in (query, key, value):
            tensor[:, :, BLOCK + 10 :] += 3
    after = block_attention(query, key, value, None)
    assert torch.equal(before[:, :, : BLOCK + 10], after[:, :, : BLOCK + 10])
    assert not torch.equal(before, after)


def test_scores_far_apart_give_no_nan() -> None:
    query, key, value, slope = tensors(2, 1, 64)
    with torch.no_grad():
        query.mul_(200)
    out = block_attention(query, key, value, None)
    grads = torch.autograd.grad(out, (query, key, value), slope)
    assert all(bool(torch.isfinite(t).all()) for t in (out, *grads))


@pytest.mark.parametrize(
    ("dtype", "length", "dropout", "fit"),
    [
        (torch.bfloat16, LONGEST, 0.0, True),
        (torch.bfloat16, LONGEST + 1, 0.0, False),
        (torch.bfloat16, 8, 0.1, False),
        (torch.float32, 8, 0.0, False),
    ],
)
def test_other_kinds_are_left_to_torch(
    dtype: torch.dtype, length: int, dropout: float, fit: bool
) -> None:
    assert fits(torch.empty(1, 1, 1, 8, dtype=dtype), length, dropout) is fit

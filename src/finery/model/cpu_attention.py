"""Causal attention of one document on a CPU in bf16, as matrix products over blocks of queries.

torch's fused CPU kernel gains nothing from bf16. Here the products run in bf16 (which the
matrix units of current CPUs multiply at four times the float32 rate), softmax and its slope
add up in float32 inside their kernels, and a block of queries meets only the keys up to its
own end, so that most of the upper triangle is never computed. The causal mask and the scale
go into the product that makes the scores: no pass over them is made for either. The
probabilities are kept for the backward pass, which is written out (Dao et al. 2022,
appendix B):

    dV = Pᵀ dO     dP = dO Vᵀ     dS = P ∘ (dP - rowsum(dP ∘ P))     dQ = s dS K     dK = s dSᵀ Q

Query heads that share a key head are stacked, so that keys are never copied.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

BLOCK = 256  # queries at once: large enough for the GEMM, small enough to skip the triangle
LONGEST = 1536  # tokens; beyond, the fused kernel's smaller memory traffic wins


class _BlockAttention(torch.autograd.Function):
    """out (H, L, D) of query (H, L, D), key and value (K, L, D), H a multiple of K."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        heads, length, width = query.shape
        shared = key.shape[0]
        out = torch.empty_like(query)
        columns = key.transpose(1, 2)
        kept = []
        for start in range(0, length, BLOCK):
            end = min(start + BLOCK, length)
            rows = query[:, start:end].reshape(shared, -1, width)
            mask = _causal(start, end, heads // shared, query.dtype)
            scores = torch.baddbmm(mask, rows, columns[:, :, :end], alpha=scale)
            weights = torch.softmax(scores, dim=-1)
            part = torch.bmm(weights, value[:, :end])
            out[:, start:end] = part.view(heads, end - start, width)
            kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        heads, length, width = query.shape
        shared = key.shape[0]
        grad_query = torch.empty_like(query)
        grad_key = torch.zeros(key.shape, dtype=torch.float32)
        grad_value = torch.zeros(value.shape, dtype=torch.float32)
        grad_out = grad_outputs[0]
        columns = value.transpose(1, 2)
        for weights, start in zip(kept, range(0, length, BLOCK), strict=True):
            end = min(start + BLOCK, length)
            rows = query[:, start:end].reshape(shared, -1, width)
            grads = grad_out[:, start:end].reshape(shared, -1, width)
            grad_value[:, :end] += torch.bmm(weights.transpose(1, 2), grads)
            slopes = torch.bmm(grads, columns[:, :, :end])
            slopes = torch.ops.aten._softmax_backward_data(slopes, weights, -1, query.dtype)
            grad_query[:, start:end] = torch.bmm(slopes, key[:, :end]).view(heads, -1, width)
            grad_key[:, :end] += torch.bmm(slopes.transpose(1, 2), rows)
        grad_query.mul_(ctx.scale)
        grad_key.mul_(ctx.scale)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None


@lru_cache(maxsize=64)
def _causal(start: int, end: int, stacked: int, dtype: torch.dtype) -> Tensor:
    """0 where a query of start..end may see a key of 0..end, minus infinity where not.

    (1, stacked * queries, keys): the queries of the heads that share a key, one after the other.
    """
    queries = torch.arange(start, end).repeat(stacked).view(-1, 1)
    hidden = torch.arange(end).view(1, -1) > queries
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))[None]


def fits(query: Tensor, length: int, dropout: float) -> bool:
    """Whether block attention is the faster form for a document of `length` tokens."""
    on_cpu = query.device.type == "cpu" and query.dtype == torch.bfloat16
    return on_cpu and length <= LONGEST and dropout == 0.0


def block_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Attention of one document: query (1, H, L, D), key and value (1, K, L, D)."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast("cpu", enabled=False):
        out = _BlockAttention.apply(
            query[0].contiguous(), key[0].contiguous(), value[0].contiguous(), scale
        )
    return out[None]  # pyright: ignore[reportOptionalSubscript]

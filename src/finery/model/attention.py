"""Attention that keeps the documents of a packed row apart, for any transformers model.

A packed row holds several documents one after the other. Its document lengths travel in the
place of the attention mask, as a 4-dimensional integer tensor (1, 1, 1, documents):
transformers hands a 4-dimensional mask to every layer untouched, also when a block is run
again for gradient checkpointing. Each document then attends causally to itself alone; no
mask of T x T is ever built, so packing costs what its documents cost.

With any other mask (padded batches, generation with a cache) this is transformers' own
`sdpa`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from finery.model import cpu_attention

NAME = "finery_documents"


def document_mask(lengths: tuple[int, ...]) -> Tensor:
    """The document lengths of a packed row, in the form that rides in the mask's place."""
    return torch.tensor(lengths, dtype=torch.int32).view(1, 1, 1, -1)


def attention(
    module: torch.nn.Module,
    query: Tensor,  # (B, heads, T, D)
    key: Tensor,  # (B, kv heads, T, D)
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention output (B, T, heads, D); the signature is transformers' attention interface."""
    if attention_mask is None or attention_mask.dtype != torch.int32:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
    lengths = tuple(attention_mask.flatten().tolist())  # on the CPU by construction: no sync
    window = kwargs.get("sliding_window")
    if query.is_cuda and dropout == 0.0 and query.dtype != torch.float32:
        out = _varlen(query, key, value, lengths, scaling, window)
    else:
        out = _per_document(query, key, value, lengths, scaling, window, dropout)
    return out, None


def _per_document(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    scaling: float | None,
    window: int | None,
    dropout: float,
) -> Tensor:
    """One fused causal kernel a document: work grows with the sum of squares, not the square."""
    parts = [
        _document(q, k, v, scaling, window, dropout)
        for q, k, v in zip(
            query.split(lengths, dim=2),
            key.split(lengths, dim=2),
            value.split(lengths, dim=2),
            strict=True,
        )
    ]
    joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return joined.transpose(1, 2).contiguous()


def _document(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    window: int | None,
    dropout: float,
) -> Tensor:
    """Causal attention within one document, (1, heads, L, D)."""
    length = query.shape[2]
    beyond = window is not None and length > window
    if not beyond and cpu_attention.fits(query, length, dropout):
        return cpu_attention.block_attention(query, key, value, scaling)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=_window_mask(length, window, query.device) if beyond else None,
        is_causal=not beyond,
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


@lru_cache(maxsize=8)
def _window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """A causal band of `window` tokens, for documents longer than a sliding window."""
    distance = torch.arange(length, device=device)
    distance = distance.view(-1, 1) - distance.view(1, -1)
    return (distance >= 0) & (distance < window)


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """All documents in one flash kernel (torch's varlen attention, CUDA, 16-bit)."""
    from torch.nn.attention.varlen import varlen_attn

    edges = _edges(lengths, query.device)
    longest = max(lengths)
    # older torch has no such argument, and needs none where every query head has its own key
    grouped: dict[str, Any] = {"enable_gqa": True} if query.shape[1] != key.shape[1] else {}
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (T, heads, D)
    out = varlen_attn(
        q,
        k,
        v,
        edges,
        edges,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **grouped,
    )
    return out[None]  # pyright: ignore[reportCallIssue, reportIndexIssue, reportArgumentType]


@lru_cache(maxsize=8)
def _edges(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Where documents begin and end, (documents + 1,), kept for the layers of one forward."""
    total = torch.tensor((0, *lengths), dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return total.to(device)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)

"""Attention of packed rows over their slots: no key is copied, hardly any padding is read.

Rows with one token each are taken together where their slots lie side by side and their
lengths are near: one fused kernel over (rows, heads, longest), with a mask where lengths differ.
A piece of a prompt is a kernel of its own over what its slot holds so far.

Query heads that share a key head are the queries of one head to the kernel (query positions do not
matter to it where there is no causal mask), so that keys are not repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SHAPES = 64  # lengths of keys that differ by less are one shape to matrix products
CALL = 200  # the fixed cost of a kernel call, in tokens of one row that it could read instead


@dataclass(frozen=True)
class Group:
    """Answering rows whose slots are `low` .. `low + len(lengths)`; first in packed order."""

    first: int
    low: int
    lengths: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths)


@dataclass(frozen=True)
class Piece:
    """Tokens `start` .. `start + count` of the row in `slot`, at `first` in packed order."""

    first: int
    slot: int
    start: int
    count: int


@dataclass
class Step:
    """What all layers of one forward share."""

    positions: Tensor  # (T,)
    index: Tensor  # (T x 2 kv heads,) where keys and values are written
    groups: list[Group]
    pieces: list[Piece]
    mix: Any = None  # which token goes through which adapter
    masks: dict[Any, Tensor | None] = field(default_factory=dict)


def grouped(places: Sequence[tuple[int, int]]) -> list[Group]:
    """Split answering rows (slot, length), sorted by slot, into the cheapest kernel calls.

    Dynamic programming over where the last group begins; a group costs a call and, for each of
    its rows, the length of its longest.
    """
    best: list[tuple[int, int]] = [(0, 0)]  # cost of the first rows, where their last group begins
    for end in range(1, len(places) + 1):
        choices = []
        longest = 0
        for begin in range(end - 1, -1, -1):
            if places[begin][0] != places[end - 1][0] - (end - 1 - begin):
                break  # a slot between them is not of this group
            longest = max(longest, places[begin][1])
            choices.append((best[begin][0] + CALL + longest * (end - begin), begin))
        best.append(min(choices))
    groups: list[Group] = []
    end = len(places)
    while end:
        begin = best[end][1]
        lengths = tuple(length for _, length in places[begin:end])
        groups.append(Group(begin, places[begin][0], lengths))
        end = begin
    return groups[::-1]


def attend(
    step: Step, layer: Tensor, qkv: Tensor, heads: int, scale: float, window: int | None
) -> Tensor:
    """Write the new keys and values into `layer` and attend, (T, heads x head size).

    `qkv` is (T, heads + 2 kv heads, head size): queries, keys, values; `layer` is
    (slots, 2 kv heads, capacity, head size), every key head beside its value head.
    """
    size = layer.shape[-1]
    new = qkv[:, heads:].reshape(-1, size).to(layer.dtype)
    layer.view(-1, size).index_copy_(0, step.index, new)
    query = qkv[:, :heads].to(layer.dtype)
    parts = [_group(step, group, layer, query, scale, window) for group in step.groups]
    parts += [_piece(step, piece, layer, query, scale, window) for piece in step.pieces]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _group(
    step: Step, group: Group, layer: Tensor, query: Tensor, scale: float, window: int | None
) -> Tensor:
    count, kv = len(group.lengths), layer.shape[1] // 2
    products = layer.dtype == torch.bfloat16 and layer.device.type == "cpu"
    length = group.longest
    if products:  # oneDNN makes code for each shape it meets: few shapes, not one a step
        length = min(layer.shape[2], -(-length // SHAPES) * SHAPES)
    held = layer[group.low : group.low + count, :, :length]
    queries = query[group.first : group.first + count].reshape(count, kv, -1, layer.shape[-1])
    key = (group.first, window)
    if key not in step.masks:
        step.masks[key] = _group_mask(group, length, window, layer)
    mask = step.masks[key]
    if products:
        return _products(queries, held[:, ::2], held[:, 1::2], mask, scale).reshape(count, -1)
    out = F.scaled_dot_product_attention(
        queries,
        held[:, ::2],
        held[:, 1::2],
        attn_mask=None if mask is None else mask.expand(count, 1, queries.shape[2], -1),
        scale=scale,
    )
    return out.reshape(count, -1)


def _products(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Attention as two matrix products, softmax in float32; all (rows, kv heads, ..., size).

    For few queries of 16-bit keys on a CPU, where torch's fused kernel multiplies one pair of
    vectors after the other (6 times slower for one query a key head) or converts all keys. Keys
    come first in the product, so that oneDNN reads them once and in order.
    """
    scores = torch.matmul(key, query.transpose(2, 3)).transpose(2, 3).float().mul_(scale)
    if mask is not None:
        scores.add_(mask)
    return torch.matmul(torch.softmax(scores, dim=-1).to(value.dtype), value)


def _group_mask(group: Group, columns: int, window: int | None, layer: Tensor) -> Tensor | None:
    """0 where a row may look, minus infinity elsewhere, (rows, 1, 1, columns); None: everywhere."""
    within = window is None or columns <= window
    if within and all(length == columns for length in group.lengths):
        return None
    places = torch.arange(columns, device=layer.device)
    lengths = torch.tensor(group.lengths, device=layer.device)[:, None]
    seen = places < lengths
    if window is not None:
        seen &= places >= lengths - window
    mask = torch.zeros(seen.shape, dtype=layer.dtype, device=layer.device)
    return mask.masked_fill_(~seen, float("-inf"))[:, None, None]


def _piece(
    step: Step, piece: Piece, layer: Tensor, query: Tensor, scale: float, window: int | None
) -> Tensor:
    kv, end = layer.shape[1] // 2, piece.start + piece.count
    held = layer[piece.slot : piece.slot + 1, :, :end]
    queries = query[None, piece.first : piece.first + piece.count].transpose(1, 2)
    from_start = piece.start == 0 and (window is None or end <= window)
    key = (piece.first, window)
    if not from_start and key not in step.masks:
        step.masks[key] = _piece_mask(piece, window, layer)
    out = F.scaled_dot_product_attention(
        queries,
        held[:, ::2],
        held[:, 1::2],
        attn_mask=None if from_start else step.masks[key],
        is_causal=from_start,
        scale=scale,
        enable_gqa=queries.shape[1] != kv,
    )
    return out.transpose(1, 2).reshape(piece.count, -1)


def _piece_mask(piece: Piece, window: int | None, layer: Tensor) -> Tensor:
    """Causal from the piece's place in its row, (1, 1, count, end)."""
    end = piece.start + piece.count
    here = torch.arange(piece.start, end, device=layer.device)[:, None]
    places = torch.arange(end, device=layer.device)
    seen = places <= here
    if window is not None:
        seen &= places > here - window
    mask = torch.zeros(seen.shape, dtype=layer.dtype, device=layer.device)
    return mask.masked_fill_(~seen, float("-inf"))[None, None]

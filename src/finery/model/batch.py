"""Token rows as tensors: documents end to end without padding, or one padded row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from finery.chat.rows import TokenRows


@dataclass(frozen=True)
class Batch:
    """What one forward pass reads, and where its loss falls.

    `positions` index the hidden states, flattened over batch and time, that predict
    `targets`: state t predicts token t + 1 of the same document, never of the next one.
    """

    input_ids: Tensor  # (1, T) documents, or (B, T) padded
    position_ids: Tensor  # same shape; begins at 0 in every document
    lengths: tuple[int, ...] | None  # tokens of each document, or None when padded
    attention_mask: Tensor | None  # (B, T), 1 at real tokens, when padded
    positions: Tensor  # (N,)
    targets: Tensor  # (N,)

    @property
    def tokens(self) -> int:
        """Real tokens in the batch; padding is not counted."""
        if self.attention_mask is None:
            return self.input_ids.numel()
        return int(self.attention_mask.sum())

    def to(self, device: str | torch.device) -> Batch:
        """This batch with its tensors on `device`."""
        moved = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def make_batch(
    rows: TokenRows,
    indices: Sequence[int],
    *,
    padded: bool = False,
    pad_id: int = 0,
    pad_to: int = 0,
    every_token: bool = False,
) -> Batch:
    """The rows at `indices` as one batch.

    `every_token` puts the loss on all tokens instead of the trained ones (the second figure
    of an evaluation). `pad_to` is the least length of a padded row.
    """
    lengths = [len(rows.row_ids(i)) for i in indices]
    width = max(*lengths, pad_to) if len(lengths) > 1 else max(lengths[0], pad_to)
    starts = np.arange(len(indices)) * width if padded else np.cumsum([0, *lengths[:-1]])
    size = len(indices) * width if padded else sum(lengths)
    ids = np.full(size, pad_id, dtype=np.int64)
    places = np.zeros(size, dtype=np.int64)
    real = np.zeros(size, dtype=np.int64)
    positions, targets = [], []
    for index, start, length in zip(indices, starts, lengths, strict=True):
        row = rows.row_ids(index)
        ids[start : start + length] = row
        places[start : start + length] = np.arange(length)
        real[start : start + length] = 1
        loss = np.ones(length, bool) if every_token else rows.row_trained(index)
        where = np.flatnonzero(loss[1:])  # the first token of a document has no predecessor
        positions.append(start + where)
        targets.append(row[where + 1])
    shape = (len(indices), width) if padded else (1, size)
    return Batch(
        input_ids=torch.from_numpy(ids).view(shape),
        position_ids=torch.from_numpy(places).view(shape),
        lengths=None if padded else tuple(lengths),
        attention_mask=torch.from_numpy(real).view(shape) if padded else None,
        positions=torch.from_numpy(np.concatenate(positions).astype(np.int64)),
        targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
    )

"""Held-out loss, row by row, so that two models can be compared in pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finery.chat.rows import TokenRows
from finery.model.batch import Batch, make_batch
from finery.model.loss import LossModel, token_losses

LEAST_ROWS = 8  # of a held-out batch: without gradients so many always fit where one trains


@dataclass(frozen=True)
class RowLosses:
    """Summed losses (nats) and token counts of each row."""

    loss_sum: npt.NDArray[np.float64]  # over assistant tokens
    tokens: npt.NDArray[np.int64]
    all_loss_sum: npt.NDArray[np.float64]  # over all tokens
    all_tokens: npt.NDArray[np.int64]

    @property
    def mean(self) -> float:
        """Loss per assistant token; NaN without any."""
        return float(self.loss_sum.sum() / self.tokens.sum()) if self.tokens.sum() else float("nan")


def heldout_losses(
    model: LossModel,
    rows: TokenRows,
    *,
    padded: bool = False,
    pad_id: int = 0,
    batch_rows: int = LEAST_ROWS,
    device: str = "cpu",
    autocast: torch.dtype | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> RowLosses:
    """Losses of every row, assistant tokens and all tokens; dropout off, no gradients."""
    own, every = np.zeros(len(rows)), np.zeros(len(rows))
    own_tokens, every_tokens = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    for indices in by_length(rows, batch_rows):
        batch = make_batch(rows, indices, padded=padded, pad_id=pad_id, every_token=True)
        losses = _losses(model, batch.to(device), autocast, device)
        place = 0
        for index in indices:
            trained = rows.row_trained(index)[1:]
            part = losses[place : place + len(trained)]
            own[index], every[index] = part[trained].sum(), part.sum()
            own_tokens[index], every_tokens[index] = trained.sum(), len(trained)
            place += len(trained)
        if on_batch:
            on_batch(len(indices))
    return RowLosses(own, own_tokens, every, every_tokens)


def _losses(
    model: LossModel, batch: Batch, autocast: torch.dtype | None, device: str
) -> npt.NDArray[np.float64]:
    was_training = model.training
    model.eval()
    with (
        torch.inference_mode(),
        torch.autocast(device, dtype=autocast or torch.bfloat16, enabled=autocast is not None),
    ):
        losses: Tensor = token_losses(model, batch)
    model.train(was_training)
    return losses.double().cpu().numpy()


def by_length(rows: TokenRows, batch_rows: int) -> Sequence[Sequence[int]]:
    """Row indices in batches of like length, longest first, so that memory peaks at once."""
    order = np.argsort(-rows.lengths, kind="stable").tolist()
    return [order[i : i + batch_rows] for i in range(0, len(order), batch_rows)]

"""Held-out loss while training, shared out over the processes."""

from __future__ import annotations

import torch

from finery.chat.rows import TokenRows
from finery.evaluation.loss import LEAST_ROWS, by_length
from finery.training import distribution
from finery.training.trainee import Trainee


@torch.no_grad()
def heldout_mean(trainee: Trainee, rows: TokenRows, batch_rows: int) -> float:
    """Mean loss per assistant token of `rows`, in nats; all processes call it together.

    Every process runs the same number of batches (the last ones weigh nothing where there
    are too few), because under ZeRO-3 each forward pass is a joint one.
    """
    batches = by_length(rows, max(batch_rows, LEAST_ROWS))
    world = trainee.accelerator.num_processes
    sums = torch.zeros(2, dtype=torch.float64)
    trainee.model.eval()
    for turn in range(-(-len(batches) // world)):
        index = turn * world + trainee.rank
        batch = trainee.batch(rows, batches[min(index, len(batches) - 1)])
        loss = trainee.model(batch)
        if index < len(batches):
            sums += torch.tensor([float(loss), len(batch.targets)], dtype=torch.float64)
    trainee.model.train()
    loss, tokens = distribution.total(trainee.accelerator, sums.to(trainee.accelerator.device))
    return float(loss / tokens)

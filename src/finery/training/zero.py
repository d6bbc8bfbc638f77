"""The optimizer of a ZeRO process as plain tensors, without DeepSpeed's pickled files.

Stages 1 and 2 keep, on each process, one float32 slice of every parameter group; stage 3
keeps flat float32 groups of the process's own shards. The wrapped torch optimizer holds its
state for those slices. Saving both and putting them back in a process of the same rank and
world size restores ZeRO exactly; another world size is refused before this is reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from finery.errors import FineryError


def _slices(zero: Any) -> list[Tensor]:
    """The float32 tensors this process optimizes, in order."""
    for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
        if hasattr(zero, name):
            return list(getattr(zero, name))
    raise FineryError("This DeepSpeed version keeps its optimizer in a way finery cannot save.")


def zero_state(zero: Any) -> dict[str, Tensor]:
    """Slices and their optimizer state by "index|entry"."""
    tensors = {}
    for index, part in enumerate(_slices(zero)):
        tensors[f"{index}|slice"] = part.detach().clone()
        for key, value in zero.optimizer.state.get(part, {}).items():
            tensors[f"{index}|{key}"] = torch.as_tensor(value).detach().clone()
    return tensors


@torch.no_grad()
def restore_zero(zero: Any, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `zero_state` gave, and refresh the working copies of the weights."""
    for index, part in enumerate(_slices(zero)):
        part.copy_(tensors[f"{index}|slice"])
        state = zero.optimizer.state[part]
        for full, tensor in tensors.items():
            owner, key = full.split("|")
            if owner == str(index) and key != "slice":
                state[key] = tensor.clone().to("cpu" if tensor.ndim == 0 else part.device)

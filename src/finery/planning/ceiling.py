"""Useful work of training in FLOPs, and what the machine could do at most.

The work is counted from the shapes, whatever an implementation really computes: padding,
recomputation and logits that carry no loss are not useful (the counting of Kaplan et al. 2020,
section 2.1, with the attention of Narayanan et al. 2021, appendix, for documents of their own).

    a weight, frozen           4 a token         forward 2, gradient of the input 2
    a weight, trained          6 a token         the gradient of the weight as well
    attention, causal          6 x T^2 x width   a layer and document of T tokens: two products
                                                 forward, four backward, half below the diagonal
    output layer               4 (trained: 6) x hidden x vocabulary a token that carries loss

Weights are those of the linear layers; embeddings are looked up, not multiplied.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

CEILING_SECONDS = 0.4


@dataclass(frozen=True)
class WorkShape:
    """The sizes of a causal language model that decide its work."""

    frozen: int  # weights of linear layers that only pass gradients on
    trained: int  # weights of linear layers that also get one
    layers: int
    attention_width: int  # heads x head size
    hidden: int
    vocabulary: int
    head_trained: bool = False


def work_shape(model: nn.Module, config: Any) -> WorkShape:
    """The shape of a model, its adapter attached if it has one; weights may be on "meta"."""
    from torch import nn

    causal: Any = model
    head = causal.get_output_embeddings()
    weights = {True: 0, False: 0}
    for module in model.modules():
        # its own alone: an adapter's layer also answers with the weight of the layer it wraps
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if weight is None or weight.ndim != 2:
            continue
        if module is not head and not isinstance(module, nn.Embedding):
            weights[weight.requires_grad] += weight.numel()
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return WorkShape(
        frozen=weights[False],
        trained=weights[True],
        layers=config.num_hidden_layers,
        attention_width=heads * head_size,
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        head_trained=bool(head is not None and head.weight.requires_grad),
    )


def useful_flops(shape: WorkShape, tokens: int, lengths: Iterable[int], loss_tokens: int) -> float:
    """FLOPs of one forward and backward pass over `tokens` in documents of these lengths."""
    squares = float(sum(length * length for length in lengths))
    attention = 6.0 * shape.layers * shape.attention_width * squares
    head = (6.0 if shape.head_trained else 4.0) * shape.hidden * shape.vocabulary * loss_tokens
    return (4.0 * shape.frozen + 6.0 * shape.trained) * tokens + attention + head


def gemm_ceiling(
    device: str, dtype: torch.dtype, size: int = 0, seconds: float = CEILING_SECONDS
) -> float:
    """FLOP/s of the fastest of many matrix products of size^3: what this machine can give.

    Takes about `seconds`; `size` 0 means 2,048 on a CPU and 8,192 on a GPU.
    """
    import torch

    size = size or (2048 if device == "cpu" else 8192)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        started = time.perf_counter()
        torch.mm(a, b)
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best

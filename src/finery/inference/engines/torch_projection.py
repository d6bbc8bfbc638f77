"""A linear layer of a running model: its weight in one of the forms, and adapters on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finery.inference.engines.torch_weights import Weight, has_packed16, make_weight

# The layers behind a feed-forward block's product, whose inputs have by far the largest outliers
# (Sun et al. 2024). Their 8-bit inputs cost more of the answer than all other layers' together, so
# that int8 keeps these in bf16.
_DOWN = ("down_proj", "fc2", "dense_4h_to_h")


@dataclass(frozen=True)
class Part:
    """The rows `low` .. `high` of a projection are the layer that the model calls `name`.

    `order` is how the rows of that layer lie here, None where they lie as they were.
    """

    name: str
    low: int
    high: int
    order: Tensor | None = None


class Projection:
    """One or several linear layers with the same input, in one product."""

    def __init__(self, weight: Weight, parts: Sequence[Part]) -> None:
        self.weight = weight
        self.parts = tuple(parts)

    def __call__(self, x: Tensor, mix: Any = None) -> Tensor:
        """(T, in) to (T, out); `mix` says which adapter each token goes through."""
        y = self.weight(x)
        if mix is not None:
            mix.add(y, x, self)
        return y

    def add(self, onto: Tensor, x: Tensor, mix: Any = None) -> None:
        """Add the result to `onto` (T, out), in place."""
        self.weight.add(onto, x)
        if mix is not None:
            mix.add(onto, x, self)


def stack(
    layers: Sequence[tuple[str, Any]],
    precision: str,
    order: Tensor | None = None,
    peaks: Mapping[str, Tensor] | None = None,
) -> Projection:
    """One projection of linear layers (name, module) of the same input.

    `order` permutes the rows of all together; `peaks` are the layers' largest inputs by channel.
    """
    weights = [module.weight for _, module in layers]
    weight = weights[0] if len(weights) == 1 else torch.cat(weights)
    biases = [module.bias for _, module in layers]
    bias = None
    if any(one is not None for one in biases):
        whole = [
            torch.zeros_like(w[:, 0]) if b is None else b
            for w, b in zip(weights, biases, strict=True)
        ]
        bias = torch.cat(whole)
    if order is not None:
        weight, bias = weight[order], None if bias is None else bias[order]
    parts, low = [], 0
    for (name, _), one in zip(layers, weights, strict=True):
        high = low + len(one)
        own = None if order is None else order[low:high] - low
        parts.append(Part(name, low, high, own))
        low = high
    first = layers[0][0]
    if precision == "int8" and first.endswith(_DOWN) and has_packed16(weight.device):
        precision = "bfloat16"
    return Projection(make_weight(weight, bias, precision, (peaks or {}).get(first)), parts)

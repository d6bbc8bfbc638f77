"""A linear layer and its LoRA adapter in one pass: y = x Wᵀ + b + s (x Aᵀ) Bᵀ.

PEFT computes the two branches apart: it casts x to the adapter's dtype and back, scales and
adds in passes of their own over y, and lets autograd keep each step. Here the adapter is
added into y by its own matrix product, and the backward pass is written out:

    dh = s dy B        dA = dhᵀ x        dB = s dyᵀ h        dx = dy W + dh A     (h = x Aᵀ)

W is frozen and gets no gradient (Hu et al. 2021, eq. 3). Same values as PEFT within rounding;
`fuse_lora` swaps it in where a layer is a plain one, and leaves every other layer alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor, nn

from finery.model.fp8_linear import Fp8Linear
from finery.model.lora import lora_layers


@dataclass(frozen=True)
class Dense:
    """A frozen layer as it came."""

    layer: nn.Linear

    def times(self, x: Tensor) -> Tensor:
        """x Wᵀ + b of x (T, in)."""
        return F.linear(x, self.layer.weight, self.layer.bias)

    def back(self, grad: Tensor) -> Tensor:
        """grad W of grad (T, out)."""
        return grad @ self.layer.weight


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, base: Dense | Fp8Linear, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low_a, low_b = a.to(x.dtype), b.to(x.dtype)
        hidden = flat @ low_a.T
        out = base.times(flat)
        out.addmm_(hidden, low_b.T, alpha=scale)
        ctx.save_for_backward(flat, hidden, low_a, low_b)
        ctx.base, ctx.scale = base, scale
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | float | None, ...]:
        flat, hidden, low_a, low_b = ctx.saved_tensors
        grad = grad_outputs[0].reshape(-1, grad_outputs[0].shape[-1])
        grad_hidden = (grad @ low_b).mul_(ctx.scale)
        grad_a = (grad_hidden.T @ flat).float()
        # the same as gradᵀ hidden, which takes half as long again
        grad_b = (hidden.T @ grad).T.float().mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = ctx.base.back(grad).addmm_(grad_hidden, low_a)
            grad_x = grad_x.view(*grad_outputs[0].shape[:-1], grad_x.shape[-1])
        return grad_x, None, grad_a, grad_b, None


class _Fused:
    """The forward of one PEFT layer, with PEFT's own to fall back on."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.plain = layer.forward

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer = self.layer
        base = layer.base_layer
        eight = isinstance(base, Fp8Linear)
        whole = (eight or base.weight.dtype == x.dtype) and not kwargs
        if layer.disable_adapters or layer.merged or not whole:
            return self.plain(x, *args, **kwargs)
        name = layer.active_adapters[0]
        return _LoraLinear.apply(  # pyright: ignore[reportReturnType]
            x,
            base if eight else Dense(base),
            layer.lora_A[name].weight,
            layer.lora_B[name].weight,
            layer.scaling[name],
        )


def fuse_lora(model: nn.Module) -> int:
    """Swap the one-pass form into every layer it fits; returns how many those are.

    It fits plain linear layers with frozen weights of 8, 16 or 32 bits and one adapter without
    dropout, bias or DoRA. The parameters stay PEFT's, so saving and merging do not change.
    """
    count = 0
    for _, layer in lora_layers(model):
        if _is_plain(layer):
            layer.forward = _Fused(layer)  # pyright: ignore[reportAttributeAccessIssue]
            count += 1
    return count


def _is_plain(layer: Any) -> bool:
    names = list(layer.active_adapters)
    return (
        type(layer) is Linear
        and type(layer.base_layer) in (nn.Linear, Fp8Linear)
        and not layer.base_layer.weight.requires_grad
        and len(names) == 1
        and names[0] not in layer.lora_variant
        and isinstance(layer.lora_dropout[names[0]], nn.Identity)
        and layer.lora_A[names[0]].bias is None
        and layer.lora_B[names[0]].bias is None
    )

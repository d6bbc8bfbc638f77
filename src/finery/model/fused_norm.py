"""RMSNorm with its backward pass written out: y = w x / rms(x) (Zhang & Sennrich 2019).

transformers computes it as six operations and autograd keeps their float32 results. Here x is
kept as it came, with one number a row; the sums are float32 as in transformers:

    r = (mean(x²) + eps)^-1/2     dx = r (w dy - x r² mean(w dy x))     dw = sum(dy x r)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        rate = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        rate = rate.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, rate)
        # rounded before the weight is applied, as transformers does
        return (wide * rate).to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rate = ctx.saved_tensors
        grad = grad_outputs[0]
        grad_weight = None
        if ctx.needs_input_grad[1]:
            product = grad.float() * (x.float() * rate)
            grad_weight = product.flatten(0, -2).sum(0).to(weight.dtype)
        slope = (grad * weight).float()
        wide = x.float().mul_(rate)  # x / rms(x)
        mean = (slope * wide).mean(-1, keepdim=True)
        grad_x = slope.sub_(wide.mul_(mean)).mul_(rate)
        return grad_x.to(x.dtype), grad_weight, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of x (..., D) with weight (D,)."""
    return _RmsNorm.apply(x, weight, eps)  # pyright: ignore[reportReturnType]


def fuse_norms(model: nn.Module) -> int:
    """Swap `rms_norm` into every layer that it equals on a probe; returns how many those are."""
    count = 0
    for module in model.modules():
        eps = getattr(module, "variance_epsilon", None)
        weight = getattr(module, "weight", None)
        if type(module).__name__.endswith("RMSNorm") and eps is not None and weight is not None:
            count += _swap(module, float(eps))
    return count


def same(wanted: Tensor, got: Tensor) -> bool:
    """Whether two results are one computation, up to the rounding of their dtype."""
    room = 4 * torch.finfo(wanted.dtype).eps
    tight = (wanted - got).abs().max() <= room * wanted.abs().max()
    return wanted.dtype == got.dtype and bool(tight)


@torch.no_grad()
def _swap(module: Any, eps: float) -> int:
    """Put the fused form in unless this norm is another one (Gemma's scales by 1 + w)."""
    width = module.weight.shape[-1]
    probe = torch.linspace(-2, 3, 4 * width, device=module.weight.device)
    probe = probe.view(4, width).to(module.weight.dtype)
    wanted, got = module(probe), rms_norm(probe, module.weight, eps)
    if not same(wanted, got):
        return 0
    module.forward = lambda x: rms_norm(x, module.weight, eps)
    return 1

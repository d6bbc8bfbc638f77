"""SwiGLU with its backward pass written out: y = silu(g) u (Shazeer 2020).

Autograd would keep g, u, silu(g) and the product for the matrix that follows; here g and u
are kept and silu is computed again, which costs less than the memory traffic it saves:

    du = silu(g) dy     dg = u dy σ(g) (1 + g (1 - σ(g)))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finery.model.fused_norm import same


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad = grad_outputs[0]
        grad_up = F.silu(gate).mul_(grad)
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return grad_gate, grad_up


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, both (..., D)."""
    return _SwiGlu.apply(gate, up)  # pyright: ignore[reportReturnType]


def fuse_mlps(model: nn.Module) -> int:
    """Swap `swiglu` into every feed-forward block it equals on a probe; returns how many."""
    return sum(_swap(module) for module in model.modules() if _form(module) is not None)


def _form(module: Any) -> Callable[[Tensor], Tensor] | None:
    """The fused forward of a feed-forward block, by the names its layers go by."""
    names = {name for name, _ in module.named_children()}
    if {"gate_proj", "up_proj", "down_proj"} <= names:
        return lambda x: module.down_proj(swiglu(module.gate_proj(x), module.up_proj(x)))
    if {"gate_up_proj", "down_proj"} <= names:

        def stacked(x: Tensor) -> Tensor:
            gate, up = module.gate_up_proj(x).chunk(2, dim=-1)
            return module.down_proj(swiglu(gate, up))

        return stacked
    return None


@torch.no_grad()
def _swap(module: Any) -> int:
    """Put the fused form in unless this block computes something else (another activation)."""
    fused = _form(module)
    first = next(p for n, p in module.named_parameters() if n.endswith("weight") and p.ndim == 2)
    if not first.is_floating_point():  # packed weights (4-bit) say nothing of the width
        return 0
    probe = torch.linspace(-1, 1, 4 * first.shape[-1], device=first.device).view(4, -1)
    probe = probe.to(first.dtype)
    if fused is None or not same(module(probe), fused(probe)):
        return 0
    module.forward = fused
    return 1

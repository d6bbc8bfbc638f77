"""A frozen linear layer in 8-bit floating point: weights quantised once, inputs as they come.

Every row of the weight, and every token of the input, has a scale of its own that takes its
largest value to the largest of float8 e4m3 (Micikevicius et al. 2022); the product runs on the
8-bit matrix units and is scaled back row and column wise as it is written (torch's
`_scaled_mm`). The way back to the input multiplies by the weight the other way round, whose
scales lie across: a second quantised copy, so the two together take what bf16 takes.

    y = diag(s_x) (x₈ W₈ᵀ) diag(s_W)        dx = diag(s_dy) (dy₈ V₈ᵀ) diag(s_V)      V = Wᵀ

The weights never change while an adapter is trained, so nothing is quantised again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from finery.errors import FineryError
from finery.model.lora import lora_layers

FLOAT8 = torch.float8_e4m3fn
_TOP = torch.finfo(FLOAT8).max  # 448
_STEP = 16  # the matrix units take whole blocks of so many rows and columns


class Fp8Linear(nn.Module):
    """`y = x Wᵀ + b` for a frozen W (out, in), both sizes multiples of 16.

    Holds no parameters: what is quantised is neither trained, saved nor sent to other processes.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self._dtype = layer.weight.dtype
        weight = layer.weight.detach()
        # plain attributes: as buffers they would be broadcast, which few back ends can
        self._ahead = quantized(weight)
        self._back = quantized(weight.t())

    @property
    def weight(self) -> Tensor:
        """What the 8-bit numbers stand for, (out, in), in the dtype of the layer that was."""
        values, scale = self._ahead
        return (values.float() * scale).to(self._dtype)

    def times(self, x: Tensor) -> Tensor:
        """x Wᵀ + b of x (T, in)."""
        out = scaled_product(x, *self._ahead)
        return out if self.bias is None else out.add_(self.bias)

    def back(self, grad: Tensor) -> Tensor:
        """grad W of grad (T, out): the gradient of x."""
        return scaled_product(grad, *self._back)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) → (..., out)."""
        return _Product.apply(x, self)  # pyright: ignore[reportReturnType]

    def extra_repr(self) -> str:
        """For printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {FLOAT8}"


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Fp8Linear) -> Tensor:
        ctx.layer = layer
        return layer.times(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], layer.out_features)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        grad = grad_outputs[0]
        back = ctx.layer.back(grad.reshape(-1, grad.shape[-1]))
        return back.view(*grad.shape[:-1], back.shape[-1]), None


def quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """`rows` (N, K) as float8 values (N, K) and the scale of each row (N, 1), float32."""
    largest = rows.abs().amax(dim=-1, keepdim=True).float()
    scale = largest.div_(_TOP).clamp_min_(torch.finfo(torch.float32).tiny)
    return (rows / scale).to(FLOAT8).contiguous(), scale


def scaled_product(x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    """x (T, K), quantised here, times the transpose of `values` (N, K) with their row scales."""
    ours, own = quantized(x)
    out = torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage] - torch has no other
        ours, values.t(), scale_a=own, scale_b=scale.t(), out_dtype=torch.bfloat16
    )
    return out.to(x.dtype)


def check_device(device: str) -> None:
    """Raise FineryError where the matrix units know no float8 (a CPU computes it, slowly)."""
    if device.startswith("cuda") and torch.cuda.get_device_capability(device) < (8, 9):
        name = torch.cuda.get_device_name(device)
        raise FineryError(
            f"quantization = fp8 needs a GPU of compute capability 8.9 or later; {name} has none. "
            "Set quantization: none, or nf4 to save memory."
        )


def quantize_base(model: nn.Module) -> int:
    """Put the 8-bit form under every adapter whose base fits it; returns how many those are.

    Plain linear layers with sizes in steps of 16 fit; others (the output layer among them, which
    carries no adapter) stay as they are.
    """
    count = 0
    for _, layer in lora_layers(model):
        peft_layer: Any = layer
        base = peft_layer.base_layer
        if type(base) is nn.Linear and not (base.in_features % _STEP or base.out_features % _STEP):
            peft_layer.base_layer = Fp8Linear(base)
            count += 1
    return count

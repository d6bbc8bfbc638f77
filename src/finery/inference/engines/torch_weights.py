"""Linear layers in the forms a step can run them in; activations come and go as they are.

| form | product | where |
|---|---|---|
| float32 | x Wᵀ | anywhere |
| bfloat16 | oneDNN's product on weights packed once | CPU; F.linear on a GPU |
| int8 | FBGEMM's 8-bit product, accumulated in 32-bit integers | x86 CPU |

(A model in int8 has some layers in bfloat16: see `torch_projection`.)

Int8 (weights: one scale an output channel; activations: one scale a token, found as they come):

    s = max|x|     x̂ = round(n x / s)     y = (s / n) (x̂ Ŵᵀ) ∘ w     Ŵ = round(W / w), n = 127

As each token has a scale of its own and integers add without rounding, a row's result does not
depend on the rows beside it, nor does one token of large activations (the first one of most
models: Sun et al. 2024, arXiv 2402.17762) take the precision of the others, as one scale for the
whole batch would (LLM.int8: Dettmers et al. 2022; ZeroQuant: Yao et al. 2022).
"""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from finery.errors import FineryError

PRECISIONS = ("float32", "bfloat16", "int8")


class Weight(Protocol):
    """One linear layer, (out, in)."""

    size: tuple[int, int]

    def __call__(self, x: Tensor) -> Tensor:
        """x Wᵀ + b, (T, in) to (T, out), in the dtype of x."""
        ...

    def add(self, onto: Tensor, x: Tensor) -> None:
        """onto += x Wᵀ + b, in place."""
        ...


class Plain:
    """The weight as it is."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.size = (weight.shape[0], weight.shape[1])

    def __call__(self, x: Tensor) -> Tensor:
        """See `Weight`."""
        return F.linear(x, self.weight, self.bias)

    def add(self, onto: Tensor, x: Tensor) -> None:
        """See `Weight`."""
        onto.add_(self(x))


class Packed16:
    """bf16 weights in oneDNN's own order; x is rounded to bf16, the product accumulates in fp32."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.size = (weight.shape[0], weight.shape[1])
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16().contiguous(), None)
        self._bias = None if bias is None else bias.bfloat16()

    def _product(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(
            x.bfloat16(), self._packed, self._bias, "none", [], ""
        )

    def __call__(self, x: Tensor) -> Tensor:
        """See `Weight`."""
        return self._product(x).to(x.dtype)

    def add(self, onto: Tensor, x: Tensor) -> None:
        """See `Weight`."""
        onto.add_(self._product(x))


class Int8:
    """8-bit weights in FBGEMM's own order.

    `peaks` (in,) is the largest value seen of each input channel. With it the few channels that
    are far larger than the others, which would take the steps of the whole row, are divided by
    d = sqrt(peak / max|W column|) and their weights multiplied (SmoothQuant: Xiao et al. 2023,
    arXiv 2211.10438, eq. 4 with alpha = 1/2).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, peaks: Tensor | None = None) -> None:
        self.size = (weight.shape[0], weight.shape[1])
        self._bias = bias
        wide = weight.float()
        self._shrink: Tensor | None = None
        if peaks is not None:
            columns = wide.abs().amax(0).clamp_min(1e-6)
            divisor = (peaks.float().clamp_min(1e-6) / columns).sqrt_()
            self._shrink = divisor.reciprocal()
            wide = wide * divisor
        scales = wide.abs().amax(1).clamp_min(1e-12) / 127
        rounded = (wide / scales[:, None]).round().to(torch.int8)
        zeros = torch.zeros(len(scales), dtype=torch.long)
        self._packed = _fbgemm_packed(rounded, scales, zeros)

    def _product(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._shrink is not None:
            x = x * self._shrink
        scale = x.abs().amax(-1, keepdim=True).clamp_min_(1e-12)
        return _int8_product(x / scale, 1 / _STEPS, _STEPS + 1, self._packed), scale

    def __call__(self, x: Tensor) -> Tensor:
        """See `Weight`."""
        y, scale = self._product(x)
        y.mul_(scale)
        return y if self._bias is None else y.add_(self._bias)

    def add(self, onto: Tensor, x: Tensor) -> None:
        """See `Weight`."""
        y, scale = self._product(x)
        onto.addcmul_(y, scale)
        if self._bias is not None:
            onto.add_(self._bias)


# Without VNNI the CPU adds pairs of products in 16 bits: half the steps keep them from overflowing.
_STEPS = 127 if torch.cpu._is_vnni_supported() else 63
_made_quantized: Any = getattr(torch, "_make_per_channel_quantized_tensor", None)
_int8_product: Any = getattr(
    torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32", None
)


def _fbgemm_packed(rounded: Tensor, scales: Tensor, zeros: Tensor) -> Any:
    """FBGEMM's form of int8 weights (out, in); its door is a quantized tensor of torch's old kind.

    torch says that these will go one day. `has_int8` is then false, and `auto` takes bf16.
    """
    kept, torch.backends.quantized.engine = torch.backends.quantized.engine, "fbgemm"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
            held = _made_quantized(rounded, scales.double(), zeros, 0)
        return torch.ops.quantized.linear_prepack(held, None)
    finally:
        torch.backends.quantized.engine = kept


def has_int8(device: torch.device) -> bool:
    """Whether int8 runs here: FBGEMM is part of torch on x86."""
    fbgemm = "fbgemm" in torch.backends.quantized.supported_engines
    there = _made_quantized is not None and _int8_product is not None
    return device.type == "cpu" and fbgemm and there


def has_packed16(device: torch.device) -> bool:
    """Whether oneDNN has its bf16 product here."""
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def make_weight(
    weight: Tensor, bias: Tensor | None, precision: str, peaks: Tensor | None = None
) -> Weight:
    """`weight` (out, in) in the form for `precision`; raises FineryError where it has none.

    `peaks` (in,) are the largest inputs by channel, which int8 makes use of.
    """
    weight = weight.detach()
    bias = None if bias is None else bias.detach()
    on_cpu = weight.device.type == "cpu"
    if precision == "int8":
        if not has_int8(weight.device):
            raise FineryError("int8 weights need an x86 CPU. Use bfloat16 or float32 here.")
        return Int8(weight, None if bias is None else bias.float(), peaks)
    if precision == "bfloat16" and has_packed16(weight.device):
        return Packed16(weight, bias)
    dtype = torch.bfloat16 if precision == "bfloat16" and not on_cpu else torch.float32
    return Plain(weight.to(dtype).contiguous(), None if bias is None else bias.to(dtype))

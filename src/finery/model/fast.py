"""The fast pieces, swapped into a model by one function; each has a file of its own.

| piece | file | instead of |
|---|---|---|
| LoRA layer in one pass | lora_linear.py | PEFT's two branches |
| RMSNorm | fused_norm.py | six operations |
| SwiGLU | fused_mlp.py | silu and product, both kept |
| frozen base in float8 (`quantization: fp8`) | fp8_linear.py | 16-bit products |

The last two are put in only where they give what the module gives on a probe, the first only
into plain linear layers; a family that computes something else keeps its own form. Attention, the
output layer and float8 are chosen elsewhere (attention.py, loss.py, the recipe).
"""

from __future__ import annotations

from torch import nn

from finery.model.fused_mlp import fuse_mlps
from finery.model.fused_norm import fuse_norms
from finery.model.lora_linear import fuse_lora


def speed_up(model: nn.Module) -> dict[str, int]:
    """Swap in every piece that fits; returns how many modules each one replaced."""
    return {"mlp": fuse_mlps(model), "norm": fuse_norms(model), "lora": fuse_lora(model)}

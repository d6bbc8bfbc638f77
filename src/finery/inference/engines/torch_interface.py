"""transformers' own modules on packed rows, through its attention interface.

For families that `torch_decoder` does not know. The packed tokens are one row of a batch of one;
each attention layer calls `attention` below, which keeps keys and values in slots. The step rides
beside the call (one thread owns the model), a 4-dimensional mask that transformers hands through
untouched keeps it from building one of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from finery.inference.engines.torch_attention import Step, attend
from finery.inference.engines.torch_projection import Projection, stack

NAME = "finery_slots"
# Options of the interface that change nothing when they are absent; with one of them set this
# attention would be wrong.
_UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask")


class OtherAttentionError(Exception):
    """The model's attention has terms that ours does not compute: `torch_forms` goes on to the
    plain form, and tells people why.
    """


@dataclass(frozen=True)
class _Now:
    """The step in progress."""

    step: Step
    layers: list[Tensor]
    last: Tensor


_now: ContextVar[_Now] = ContextVar("finery_step")


def attention(
    module: nn.Module,
    query: Tensor,  # (1, heads, T, size)
    key: Tensor,  # (1, kv heads, T, size)
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """(1, T, heads, size); the signature is transformers' attention interface."""
    if strange := [name for name in _UNKNOWN if kwargs.get(name) is not None]:
        raise OtherAttentionError(f"its attention has {', '.join(strange)}")
    now = _now.get()
    packed = torch.cat([query[0], key[0], value[0]]).transpose(0, 1)
    layer = now.layers[module.layer_idx]  # pyright: ignore[reportCallIssue, reportArgumentType]
    heads, size = query.shape[1], query.shape[3]
    scale = size**-0.5 if scaling is None else scaling
    out = attend(now.step, layer, packed, heads, scale, sliding_window)
    return out.view(1, -1, heads, size).to(query.dtype), None


class _Linear(nn.Module):
    """A linear layer in one of our forms, in the place of the model's."""

    def __init__(self, projection: Projection, final: bool) -> None:
        super().__init__()
        self.projection = projection
        self.final = final

    def forward(self, x: Tensor) -> Tensor:
        now = _now.get()
        mix = now.step.mix
        if mix is not None and self.final:
            mix = mix.of(now.last)
        size = self.projection.weight.size
        shape = (*x.shape[:-1], size[0])
        if not x.numel():
            return x.new_empty(shape)
        return self.projection(x.reshape(-1, size[1]), mix).view(shape)


class InterfaceDecoder:
    """A transformers model, changed in place: our attention, our linear layers."""

    def __init__(self, model: Any, precision: str, peaks: Mapping[str, Tensor]) -> None:
        config = model.config.get_text_config()
        self.kv_heads: int = getattr(config, "num_key_value_heads", None) or int(
            config.num_attention_heads
        )
        size = getattr(config, "head_dim", None)
        self.head_size: int = size or config.hidden_size // config.num_attention_heads
        self.model = model
        model.set_attn_implementation(NAME)
        self.projections: list[Projection] = []
        head = model.get_output_embeddings()
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and not name.endswith(("gate", "router")):
                projection = stack([(name, module)], precision, peaks=peaks)
                self.projections.append(projection)
                model.set_submodule(name, _Linear(projection, module is head))
        on_cpu = model.device.type == "cpu"
        self.dtype = torch.float32 if on_cpu else next(model.parameters()).dtype
        model.to(self.dtype)

    def __call__(self, ids: Tensor, step: Step, layers: list[Tensor], last: Tensor) -> Tensor:
        """Float32 logits (len(last), vocabulary) of the packed tokens `last` of `ids` (T,)."""
        token = _now.set(_Now(step, layers, last))
        try:
            output = self.model(
                input_ids=ids[None],
                position_ids=step.positions[None],
                attention_mask=torch.zeros(1, 1, 1, 1, dtype=torch.int32, device=ids.device),
                use_cache=False,
                logits_to_keep=last,
            )
        finally:
            _now.reset(token)
        return output.logits[0].float()


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)

"""The decoder of the Llama kind (Llama, Mistral, Qwen2, Qwen3, Phi-3) as a step needs it.

The same sums as transformers' modules, in fewer operations and without their Python: packed
tokens (T, hidden) instead of batches, one product for queries, keys and values and one for gate
and up, residuals added by the product that makes them. `torch_packed` takes it only where it
gives what transformers' own forward gives.

Rotary embedding (Su et al. 2021) is one complex product: the rows of the query and key
projections are put in the order (0, d/2, 1, d/2 + 1, ...), so that the pairs that transformers
rotates, i and i + d/2, lie side by side as real and imaginary part. Queries and keys are permuted
alike, so that their inner products are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from finery.inference.engines.torch_attention import Step, attend
from finery.inference.engines.torch_projection import Projection, stack

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3")


@dataclass(frozen=True)
class _Block:
    """The layers of one decoder block."""

    before: Tensor  # RMSNorm weights, (hidden,)
    qkv: Projection
    query_norm: Tensor | None  # (head size,), Qwen3's
    key_norm: Tensor | None
    out: Projection
    after: Tensor
    gate_up: Projection
    down: Projection
    window: int | None


class Decoder:
    """One model's blocks, embedding and output layer."""

    def __init__(self, model: Any, precision: str, peaks: Mapping[str, Tensor]) -> None:
        config = model.config
        core = model.model
        first = core.layers[0].self_attn
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_size: int = first.head_dim
        self.scale: float = first.scaling
        self.eps: float = config.rms_norm_eps
        self.rates: Tensor = core.rotary_emb.inv_freq.float()
        self.length: float = core.rotary_emb.attention_scaling  # of the rotated vectors (YaRN)
        on_gpu = core.norm.weight.is_cuda
        self.dtype = core.norm.weight.dtype if on_gpu else torch.float32
        self.embedding: Tensor = core.embed_tokens.weight.detach()
        self.norm = core.norm.weight.detach().to(self.dtype)
        order = _interleaved(self.heads + self.kv_heads, self.kv_heads, self.head_size, self.rates)
        self.blocks = [
            self._block(f"model.layers.{number}", layer, config, number, precision, order, peaks)
            for number, layer in enumerate(core.layers)
        ]
        self.head = stack([("lm_head", model.lm_head)], precision, peaks=peaks)

    def _block(
        self,
        name: str,
        layer: Any,
        config: Any,
        number: int,
        precision: str,
        order: Tensor,
        peaks: Mapping[str, Tensor],
    ) -> _Block:
        attn, mlp = layer.self_attn, layer.mlp
        split = hasattr(attn, "q_proj")
        qkv = [("q_proj", "k_proj", "v_proj"), ("qkv_proj",)][not split]
        gate_up = [("gate_proj", "up_proj"), ("gate_up_proj",)][not hasattr(mlp, "gate_proj")]
        pairs = order[: self.head_size]

        def norm(module: Any, rows: Tensor | None = None) -> Tensor:
            weight = module.weight.detach().to(self.dtype)
            return weight if rows is None else weight[rows]

        def stacked(part: str, owner: Any, names: Any, rows: Tensor | None = None) -> Projection:
            layers = [(f"{name}.{part}.{one}", getattr(owner, one)) for one in names]
            return stack(layers, precision, rows, peaks)

        return _Block(
            before=norm(layer.input_layernorm),
            qkv=stacked("self_attn", attn, qkv, order),
            query_norm=norm(attn.q_norm, pairs) if hasattr(attn, "q_norm") else None,
            key_norm=norm(attn.k_norm, pairs) if hasattr(attn, "k_norm") else None,
            out=stacked("self_attn", attn, ("o_proj",)),
            after=norm(layer.post_attention_layernorm),
            gate_up=stacked("mlp", mlp, gate_up),
            down=stacked("mlp", mlp, ("down_proj",)),
            window=window_of(config, number),
        )

    @property
    def projections(self) -> list[Projection]:
        """Every linear layer."""
        blocks = [(b.qkv, b.out, b.gate_up, b.down) for b in self.blocks]
        return [*(one for block in blocks for one in block), self.head]

    def __call__(self, ids: Tensor, step: Step, layers: list[Tensor], last: Tensor) -> Tensor:
        """Float32 logits (len(last), vocabulary) of the packed tokens `last` of `ids` (T,)."""
        hidden = F.embedding(ids, self.embedding).to(self.dtype)
        angles = step.positions[:, None].float() * self.rates
        turn = torch.polar(torch.full_like(angles, self.length), angles)[:, None]
        for block, layer in zip(self.blocks, layers, strict=True):
            self._attend(block, hidden, step, layer, turn)
            x = F.rms_norm(hidden, self.norm.shape, block.after, self.eps)
            gate, up = block.gate_up(x, step.mix).chunk(2, dim=-1)
            block.down.add(hidden, F.silu(gate).mul_(up), step.mix)
        if not len(last):
            return hidden.new_empty(0, self.head.weight.size[0], dtype=torch.float32)
        final = F.rms_norm(hidden[last], self.norm.shape, self.norm, self.eps)
        mix = None if step.mix is None else step.mix.of(last)
        return self.head(final, mix).float()

    def _attend(
        self, block: _Block, hidden: Tensor, step: Step, layer: Tensor, turn: Tensor
    ) -> None:
        """hidden += attention(norm(hidden)), in place."""
        x = F.rms_norm(hidden, self.norm.shape, block.before, self.eps)
        qkv = block.qkv(x, step.mix).view(len(x), -1, self.head_size)
        if block.query_norm is not None and block.key_norm is not None:
            self._norm_heads(qkv, block.query_norm, block.key_norm)
        _rotate(qkv[:, : self.heads + self.kv_heads], turn)
        out = attend(step, layer, qkv, self.heads, self.scale, block.window)
        block.out.add(hidden, out.to(hidden.dtype), step.mix)

    def _norm_heads(self, qkv: Tensor, query: Tensor, key: Tensor) -> None:
        """RMSNorm of each query and key head, in place."""
        both = self.heads + self.kv_heads
        shape = (self.head_size,)
        qkv[:, : self.heads] = F.rms_norm(qkv[:, : self.heads], shape, query, self.eps)
        qkv[:, self.heads : both] = F.rms_norm(qkv[:, self.heads : both], shape, key, self.eps)


def _rotate(heads: Tensor, turn: Tensor) -> None:
    """Turn (T, heads, size) by `turn` (T, 1, size / 2 or less), in place."""
    rotated = heads[..., : 2 * turn.shape[-1]]
    pairs = rotated.float().unflatten(-1, (-1, 2))
    turned = torch.view_as_real(torch.view_as_complex(pairs).mul_(turn))
    if rotated.dtype != torch.float32:
        rotated.copy_(turned.flatten(-2))


def _interleaved(rotated: int, plain: int, size: int, rates: Tensor) -> Tensor:
    """The order of qkv rows that puts the pairs of each rotated head side by side."""
    half = len(rates)
    pairs = torch.stack([torch.arange(half), torch.arange(half) + half], dim=1).reshape(-1)
    head = torch.cat([pairs, torch.arange(2 * half, size)])
    heads = torch.arange(rotated)[:, None] * size + head
    return torch.cat([heads.reshape(-1), torch.arange(rotated * size, (rotated + plain) * size)])


def window_of(config: Any, number: int) -> int | None:
    """The sliding window of a layer in tokens; None where it sees everything."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and kinds[number] != "sliding_attention":
        return None
    return getattr(config, "sliding_window", None)


def fits(model: Any) -> bool:
    """Whether the model is of a family whose blocks this is, with the parts it knows."""
    if getattr(model.config, "model_type", "") not in FAMILIES:
        return False
    return getattr(model.config, "hidden_act", "") == "silu"

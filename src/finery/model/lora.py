"""LoRA adapters: which layers carry one, how it is attached, how it is folded in.

The adapter is PEFT's, in code and on disk (Hu et al. 2021; rsLoRA: Kalajdzievski 2023;
DoRA: Liu et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from finery.errors import FineryError
from finery.recipe.inputs import Recipe

_SPLIT = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Every linear layer of a block, by model family. Families that are not listed take PEFT's
# "all-linear", which is the same choice made by inspection.
TARGETS: dict[str, tuple[str, ...]] = {
    "llama": _SPLIT,
    "mistral": _SPLIT,
    "qwen2": _SPLIT,
    "qwen3": _SPLIT,
    "gemma": _SPLIT,
    "gemma2": _SPLIT,
    "gemma3_text": _SPLIT,
    "smollm3": _SPLIT,
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "phi": ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "gpt_neox": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
}


@dataclass(frozen=True)
class Lora:
    """The settings of an adapter."""

    r: int
    alpha: int
    dropout: float
    targets: str  # "auto", or module names separated by commas
    rslora: bool
    dora: bool


def lora_of(recipe: Recipe) -> Lora:
    """The adapter a recipe asks for."""
    return Lora(
        r=recipe.lora_r,
        alpha=recipe.lora_alpha,
        dropout=recipe.lora_dropout,
        targets=recipe.lora_target_modules,
        rslora=recipe.use_rslora,
        dora=recipe.use_dora,
    )


def target_modules(model: PreTrainedModel, targets: str) -> list[str] | str:
    """Names of the layers that carry the adapter; raises FineryError for names not in the model."""
    if targets == "auto":
        family = TARGETS.get(model.config.model_type)
        return list(family) if family else "all-linear"
    wanted = [name.strip() for name in targets.split(",") if name.strip()]
    linear = {
        name.rsplit(".", 1)[-1]: name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    }
    unknown = [name for name in wanted if name.rsplit(".", 1)[-1] not in linear]
    if unknown or not wanted:
        raise FineryError(
            f"lora_target_modules names {', '.join(unknown) or 'nothing'}; this model has the "
            f"linear layers {', '.join(sorted(linear))}."
        )
    return wanted


def attach_lora(model: PreTrainedModel, lora: Lora) -> PeftModel:
    """`model` with a new adapter in float32, everything else frozen.

    The start values come from torch's generator: seed it first.
    """
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=target_modules(model, lora.targets),
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        # GPT-2's Conv1D holds its weight the other way round; PEFT warns unless it is told
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),
    )
    tuned = get_peft_model(model, config, autocast_adapter_dtype=True)  # pyright: ignore[reportArgumentType]
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return tuned  # pyright: ignore[reportReturnType]


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """`model` with the adapter in `folder`, for answering or merging."""
    return PeftModel.from_pretrained(model, str(folder), is_trainable=False).eval()  # pyright: ignore[reportReturnType]


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """Every layer that carries an adapter, with its name."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def merged_weight(layer: LoraLayer) -> Tensor:
    """The base weight with the adapter folded in, in float32: W + s B A.

    For DoRA the sum is scaled row by row to the learned magnitude, m (W + s B A) / |W + s B A|
    (Liu et al. 2024, eq. 5).
    """
    peft_layer: Any = layer
    name = peft_layer.active_adapters[0]
    base: Tensor = peft_layer.get_base_layer().weight
    total = base.detach().float() + peft_layer.get_delta_weight(name).detach().float()
    if peft_layer.use_dora.get(name):
        magnitude: Tensor = peft_layer.lora_magnitude_vector[name].weight.detach().float()
        inputs = 0 if peft_layer.fan_in_fan_out else 1  # Conv1D is (in, out)
        total *= (magnitude.flatten() / total.norm(dim=inputs)).unsqueeze(inputs)
    return total


@torch.no_grad()
def merge(tuned: PeftModel) -> PreTrainedModel:
    """The base model with the adapter folded into its weights, in place, PEFT taken off.

    An output layer that is tied to the embedding and carries an adapter gets a weight of its
    own: the adapter was not trained on the embedding.
    """
    embedding: Any = tuned.get_input_embeddings()  # pyright: ignore[reportCallIssue]
    untied = False
    for _, layer in lora_layers(tuned):
        base: Any = layer.get_base_layer()
        merged = merged_weight(layer).to(base.weight.dtype)
        if base.weight is embedding.weight:
            base.weight, untied = nn.Parameter(merged, requires_grad=False), True
        else:
            base.weight.copy_(merged)
    model: Any = tuned.unload()  # pyright: ignore[reportCallIssue]
    if untied:
        model.config.tie_word_embeddings = False
    return model

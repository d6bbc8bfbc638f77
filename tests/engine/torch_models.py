"""Tiny models of many families, a torch engine on them, and what transformers itself answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tiny import tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from finery.inference.decoding import decode
from finery.inference.engine import Generation, Token
from finery.inference.engines.torch_engine import TorchEngine, open_torch_engine
from finery.inference.open import Located
from finery.model.load import load_model

# Settings beside the common ones, and the form in which the engine runs the family.
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("llama", {}, "decoder"),
    "llama-tied-bias": (
        "llama",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        "decoder",
    ),
    "phi3": ("phi3", {"original_max_position_embeddings": 512}, "decoder"),
    "phi3-window": ("phi3", {"sliding_window": 24}, "decoder"),
    "phi3-partial": (
        "phi3",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
            }
        },
        "decoder",
    ),
    "mistral-window": ("mistral", {"sliding_window": 24}, "decoder"),
    "qwen2": ("qwen2", {}, "decoder"),
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
        "decoder",
    ),
    "qwen3": ("qwen3", {"head_dim": 16}, "decoder"),
    "olmo2": ("olmo2", {}, "interface"),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 2}, "interface"),
    "gpt_neox": ("gpt_neox", {"num_key_value_heads": None}, "interface"),
    "gemma3": ("gemma3_text", {"sliding_window": 24, "head_dim": 8}, "interface"),
    "gemma2": ("gemma2", {"sliding_window": 24, "head_dim": 8}, "plain"),
    "bloom": ("bloom", {}, "plain"),
}


def write_family(folder: Path, name: str) -> Path:
    """A random model of a family of `FAMILIES`, with tokenizer and template."""
    kind, settings, _ = FAMILIES[name]
    sizes = {
        "vocab_size": 264,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 256,
        "eos_token_id": 258,
        "bos_token_id": 257,
        "initializer_range": 0.2,  # larger than usual, so that a wrong mask changes the answer
        **settings,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases that are not ones and zeros
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def opened(folder: Path, **options: Any) -> TorchEngine:
    """A float32 engine on the CPU, four rows at once."""
    options = {"device": "cpu", "precision": "float32", "at_once": 4, **options}
    return open_torch_engine(Located(folder), **options)


def prompts(lengths: Sequence[int], seed: int = 0) -> list[tuple[int, ...]]:
    """Pseudo-random prompts of bytes."""
    draws = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(256, (n,), generator=draws).tolist()) for n in lengths]


def reference(
    model: Any, prompt: Sequence[int], count: int, stops: Sequence[int] = (), **settings: Any
) -> list[int]:
    """What transformers' generate answers to one prompt."""
    options: dict[str, Any] = {"temperature": 0.0, "seed": 0, "rows": [0], **settings}
    return decode(model, [prompt], stops=list(stops), pad_id=256, max_new_tokens=count, **options)[
        0
    ]


def plain_model(folder: Path) -> Any:
    """The model as transformers runs it, float32."""
    return load_model(folder, precision="32", device="cpu")


async def tokens(engine: TorchEngine, wanted: Generation, *, after: float = 0.0) -> list[Token]:
    """All tokens of an answer that is asked for after some seconds."""
    await asyncio.sleep(after)
    return [token async for token in engine.generate(wanted)]


async def ids(engine: TorchEngine, wanted: Generation, *, after: float = 0.0) -> list[int]:
    """The ids of `tokens`."""
    return [token.id for token in await tokens(engine, wanted, after=after)]


def answers(
    folder: Path, wanted: Sequence[Generation], options: Mapping[str, Any] | None = None
) -> list[list[int]]:
    """The ids of several answers asked for at once, from an engine of their own."""

    async def ask() -> list[list[int]]:
        engine = opened(folder, **(options or {}))
        try:
            return await asyncio.gather(*[ids(engine, one) for one in wanted])
        finally:
            await engine.close()

    return asyncio.run(ask())

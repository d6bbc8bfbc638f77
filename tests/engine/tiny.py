"""Whole chat models of a few thousand weights, their rows and their jobs, made in a second.

Byte-level tokenizer with ChatML tokens, random weights from a fixed seed: every engine test
runs on a machine that has no model file at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
)

from finery.chat.render import load_renderer
from finery.chat.rows import TokenRows, make_rows, save_rows
from finery.files import sha256_json
from finery.recipe.inputs import Recipe
from finery.training.job import TrainJob

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# For stories260k, whose only special tokens are <s> and </s>: the end of turn is the pad.
PLAIN = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}"
    "{{ eos_token }}{% else %}{{ m['content'] }}\n{% endif %}{% endfor %}"
)
STORY = "the a small bird cat boy saw ran home happy red big tree and was then sang to sea"
LENGTH = 256  # the max_seq_length of a tiny job


def tiny_tokenizer(pad: str = "<|pad|>", template: str = CHATML) -> PreTrainedTokenizerFast:
    """One token a byte, and ChatML's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|pad|>", "<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token=pad, chat_template=template
    )


def write_tiny(folder: Path, family: str, *, pad: str = "<|pad|>", **config: Any) -> Path:
    """A random model of `family` ("llama" or "phi3") with tokenizer and chat template."""
    sizes: dict[str, Any] = {
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
        "initializer_range": 0.2,  # larger than usual, so that a wrong mask changes the loss
        "tie_word_embeddings": family == "phi3",
        **config,
    }
    torch.manual_seed(0)
    with torch.random.fork_rng():
        if family == "llama":
            model: Any = LlamaForCausalLM(LlamaConfig(**sizes))
        else:
            model = Phi3ForCausalLM(Phi3Config(**sizes))
    model.save_pretrained(folder)
    tiny_tokenizer(pad).save_pretrained(folder)
    return folder


def copy_stories(kit: Path, folder: Path) -> Path:
    """The kit's 0.26 M model with a chat template whose end of turn is also its padding."""
    shutil.copytree(kit / "model" / "stories260k-llama", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").chmod(0o644)
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": PLAIN}))
    return folder


def conversations(count: int, seed: int = 0) -> Iterator[list[dict[str, str]]]:
    """Chats of one to three turns, of very different lengths."""
    random = np.random.default_rng(seed)

    def say(most: int) -> str:
        return " ".join(random.choice(STORY.split(), size=int(random.integers(1, most))))

    for _ in range(count):
        turns = []
        for _ in range(int(random.integers(1, 3))):
            turns.append({"role": "user", "content": say(5)})
            turns.append({"role": "assistant", "content": say(9)})
        yield turns


def tiny_rows(model: Path, count: int, seed: int = 0) -> TokenRows:
    """Rendered conversations, none longer than `LENGTH` tokens."""
    renderer = load_renderer(model)
    kept = []
    for number, messages in enumerate(conversations(count, seed), 1):
        row = renderer.render(messages)
        if len(row.ids) > LENGTH:
            row = renderer.render(messages[:2])
        kept.append((row.ids[:LENGTH], row.trained[:LENGTH], number))
    return make_rows(kept)


def tiny_job(
    run: Path,
    model: Path,
    *,
    rows: TokenRows | None = None,
    validation: TokenRows | None = None,
    processes: int = 1,
    **recipe: Any,
) -> TrainJob:
    """A job of 6 steps of 4 rows over `rows` (32 tiny ones when not given), on the CPU."""
    renderer = load_renderer(model)
    rows = tiny_rows(model, 32) if rows is None else rows
    settings: dict[str, Any] = {
        "apply_lora": True,
        "lora_alpha": 16,
        "learning_rate": 1e-2,
        "adam_epsilon": 1e-4,  # the usual 1e-8 makes steps out of the rounding of tiny gradients
        "max_steps": 6,
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "evaluation_strategy": "steps" if validation is not None else "disable",
        "eval_steps": 3,
        "device": "cpu",
        **recipe,
    }
    made = Recipe(**settings)
    return TrainJob(
        recipe=made,
        model_folder=model,
        model_source=model.name,
        model_sha256=str(model),
        train_rows=_saved(rows, run / "train-rows"),
        validation_rows=None if validation is None else _saved(validation, run / "held-out-rows"),
        train_sha256=sha256_json([rows.ids.tolist(), rows.trained.tolist()]),
        pad_id=renderer.pad_id,
        end_of_turn_id=renderer.end_of_turn_id,
        max_seq_length=LENGTH,
        device="cpu",
        processes=processes,
        accumulation=made.gradient_accumulation_steps // processes,
        run=run,
    )


def _saved(rows: TokenRows, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_rows(rows, folder)
    return folder


@dataclass(frozen=True)
class Run:
    """What a finished run left: events in order, and what it trained."""

    events: list[dict[str, Any]]
    weights: dict[str, torch.Tensor]

    @property
    def losses(self) -> list[float]:
        """The loss of every step."""
        return [event["loss"] for event in self.events if event["event"] == "log"]

    def of(self, name: str) -> list[dict[str, Any]]:
        """The events of one kind."""
        return [event for event in self.events if event["event"] == name]


def result_of(run: Path, events: list[dict[str, Any]]) -> Run:
    """The run whose files lie in `run`."""
    names = ("adapter/adapter_model.safetensors", "weights/weights.safetensors")
    found = next(run / name for name in names if (run / name).is_file())
    return Run(events, load_file(found))


def largest_difference(first: Run, second: Run) -> float:
    """The largest difference between two runs' weights, relative to the largest weight."""
    assert first.weights.keys() == second.weights.keys()
    return max(
        float((value - second.weights[name]).abs().max() / value.abs().max().clamp_min(1e-6))
        for name, value in first.weights.items()
    )

"""Tokens per second of the torch engine beside transformers' generate, in one process, in turns.

    OMP_NUM_THREADS=2 python benchmarks/run.py serving-torch [--model FOLDER] [--json OUT]

Without a model it makes one of 125 M random weights (Phi-3, 12 layers of 768). Both sides get the
same prompts, greedy, no stop id: the same number of tokens. They take turns, and the ratio is that
of neighbouring turns, so that what else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measure import OthersCpu, machine, spread, versions
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
)

from finery.inference.engine import Generation
from finery.inference.engines.torch_engine import TorchEngine, open_torch_engine
from finery.inference.engines.torch_threads import give_back_threads
from finery.inference.open import Located

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, write JSON."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", type=Path, help="a model folder")
    options.add_argument("--precision", default="auto", help="of the engine")
    options.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    options.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    options.add_argument("--new", type=int, default=128, help="tokens of an answer")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", type=Path, help="where every number goes")
    asked = options.parse_args(arguments)
    others = OthersCpu()
    with tempfile.TemporaryDirectory() as made:
        folder = asked.model or write_model(Path(made) / "model")
        most = max(asked.streams)
        # prompts are all different here: nothing may be gained by what was read before
        engine = open_torch_engine(Located(folder), precision=asked.precision, at_once=most)
        theirs: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        found = asyncio.run(compare(engine, theirs, asked))
    print(f"torch engine: {engine.precision}, {engine.info}; transformers: bfloat16")
    for streams, turns in found.items():
        ratio = statistics.median(turn["ratio"] for turn in turns)
        line = "  ".join(
            f"{name} {spread([turn[name] for turn in turns])}" for name in ("ours", "theirs")
        )
        print(f"{streams} streams: tokens/s {line}  ratio {ratio:.2f}")
    print(f"others kept {others.cores():.2f} cores busy")
    if asked.json:
        whole = {"machine": machine(), "versions": versions(), "tokens_per_second": found}
        asked.json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return 0


async def compare(
    engine: TorchEngine, theirs: Any, asked: argparse.Namespace
) -> dict[int, list[dict[str, float]]]:
    """Both sides in turns, by the number of streams; a first turn of each is not counted."""
    draws = torch.Generator().manual_seed(0)
    found: dict[int, list[dict[str, float]]] = {}
    for streams in asked.streams:
        for turn in range(asked.rounds + 1):
            size = theirs.config.vocab_size
            prompts = torch.randint(size, (streams, asked.prompt), generator=draws)
            ours = await run_engine(engine, prompts.tolist(), asked.new)
            await rest(engine)
            other = run_generate(theirs, prompts, asked.new)
            give_back_threads()
            if turn:
                pair = {"ours": ours, "theirs": other, "ratio": ours / other}
                found.setdefault(streams, []).append(pair)
    await engine.close()
    return found


async def rest(engine: TorchEngine) -> None:
    """Have the engine's thread give its OpenMP workers back: with two pools both are slower."""
    done = threading.Event()

    def give_back() -> None:
        give_back_threads()

    engine._thread.call(give_back)
    engine._thread.call(done.set)
    await asyncio.to_thread(done.wait)


async def run_engine(engine: TorchEngine, prompts: list[list[int]], new: int) -> float:
    """New tokens per second, prompts included in the time."""

    async def one(prompt: list[int]) -> int:
        return sum([1 async for _ in engine.generate(Generation(tuple(prompt), new))])

    began = time.perf_counter()
    counts = await asyncio.gather(*[one(prompt) for prompt in prompts])
    assert counts == [new] * len(prompts)
    return sum(counts) / (time.perf_counter() - began)


def run_generate(model: Any, prompts: torch.Tensor, new: int) -> float:
    """The same of transformers' generate, all prompts in one batch."""
    settings = GenerationConfig(
        max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
    )
    began = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            generation_config=settings,
        )
    assert out.shape[1] == prompts.shape[1] + new
    return len(prompts) * new / (time.perf_counter() - began)


def write_model(folder: Path) -> Path:
    """125 M random weights in bf16, and a tokenizer of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|pad|>", "<|im_start|>", "<|im_end|>"])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|pad|>",  # noqa: S106
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        original_max_position_embeddings=2048,
        pad_token_id=256,
        bos_token_id=257,
        eos_token_id=258,
    )
    Phi3ForCausalLM(config).bfloat16().save_pretrained(folder)
    return folder

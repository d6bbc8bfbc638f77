"""transformers' own `generate` as one more program that `serving` measures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from finery.chat.render import load_renderer
from finery.inference.engines.torch_threads import give_back_threads
from finery.inference.open import locate


class Generate:
    """The model in bfloat16, in this process; all prompts of a call are one batch."""

    def __init__(self, model: Path) -> None:
        located = locate(str(model))
        load: Any = AutoModelForCausalLM.from_pretrained
        self.model: Any = load(located.model, dtype=torch.bfloat16, local_files_only=True).eval()
        self.renderer = load_renderer(located.renderer)

    def __call__(self, texts: Sequence[str], tokens: int) -> float:
        """Seconds for `tokens` greedy tokens to each of the texts."""
        before = time.perf_counter()
        prompts = [self.renderer.prompt([{"role": "user", "content": text}]) for text in texts]
        longest = max(map(len, prompts))
        pad = [longest - len(prompt) for prompt in prompts]
        ids = [[self.renderer.pad_id] * n + list(one) for n, one in zip(pad, prompts, strict=True)]
        seen = [[0] * n + [1] * (longest - n) for n in pad]
        settings = GenerationConfig(
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=self.renderer.pad_id,
        )
        with torch.inference_mode():
            made = self.model.generate(
                input_ids=torch.tensor(ids),
                attention_mask=torch.tensor(seen),
                generation_config=settings,
            )
        assert made.shape[1] == longest + tokens
        took = time.perf_counter() - before
        give_back_threads()  # none spins while the servers have their turn
        return took

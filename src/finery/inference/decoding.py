"""One pass of a model over left-padded prompts, with nothing inherited from the model's own
generation settings and no global random state touched.

Sampling uses the Gumbel-max trick (Gumbel 1954; Maddison et al. 2014, arXiv 1411.0030): the
arg max of `logits / T + g`, with g from the standard Gumbel distribution, is a draw from
`softmax(logits / T)`. Each row draws g from a generator of its own, so an answer depends on
the seed and the row's number, never on what it was batched with.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from finery.errors import FineryError

if TYPE_CHECKING:
    from finery.chat.render import Renderer


def core_model(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper (adapter layers stay in place), or `model`."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def context_length(model: Any) -> int | None:
    """The most tokens (prompt and answer) the model has positions for; None when it sets none."""
    limit = getattr(core_model(model).config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


def stop_ids(model: Any, renderer: Renderer) -> tuple[int, ...]:
    """The ids that end an answer: the renderer's and the model's own end-of-sequence ids."""
    own = core_model(model).generation_config.eos_token_id
    own = [] if own is None else [own] if isinstance(own, int) else list(own)
    return tuple(sorted({int(token) for token in [*renderer.stop_ids, *own]}))


def room(model: Any, prompt: Sequence[int], max_new_tokens: int) -> int:
    """How many new tokens may follow `prompt`; zero or less when it leaves no place for one."""
    limit = context_length(model)
    return max_new_tokens if limit is None else min(max_new_tokens, limit - len(prompt))


def check_settings(
    max_new_tokens: int,
    temperature: float,
    batch_size: int = 1,
    *,
    top_p: float = 1.0,
    top_k: int = 0,
) -> None:
    """Raise FineryError for numbers no generation can run with."""
    if max_new_tokens < 1:
        raise FineryError(f"max_new_tokens is {max_new_tokens}. Ask for at least one new token.")
    if not 0.0 <= temperature < float("inf"):
        raise FineryError(f"temperature is {temperature}. Use 0 (greedy) or a positive number.")
    if batch_size < 1:
        raise FineryError(f"batch_size is {batch_size}. Use at least 1.")
    if not 0.0 < top_p <= 1.0:
        raise FineryError(f"top_p is {top_p}. Use a share above 0 and up to 1 (all tokens).")
    if top_k < 0:
        raise FineryError(f"top_k is {top_k}. Use 0 (all tokens) or a positive number.")


class GumbelNoise(LogitsProcessor):
    """Logits over temperature plus Gumbel noise, [batch, vocabulary]; the arg max is a sample.

    With `top_k` or `top_p` the draw is among the likeliest tokens alone, chosen at this
    temperature in transformers' order: the k likeliest, of them the smallest set of mass p.
    """

    def __init__(
        self,
        temperature: float,
        seed: int,
        rows: Sequence[int],
        device: Any,
        *,
        top_p: float = 1.0,
        top_k: int = 0,
    ) -> None:
        self.temperature = temperature
        self.among = [
            *([TopKLogitsWarper(top_k)] if top_k else []),
            *([TopPLogitsWarper(top_p)] if top_p < 1.0 else []),
        ]
        self.generators = [torch.Generator(device).manual_seed(row_seed(seed, row)) for row in rows]

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: torch.Tensor, scores: torch.Tensor
    ) -> torch.Tensor:
        """Scores whose arg max is a draw; both [batch, vocabulary]."""
        noise = torch.stack(
            [torch.empty_like(scores[0]).exponential_(generator=g) for g in self.generators]
        )
        scores = scores / self.temperature
        for filtered in self.among:
            scores = filtered(input_ids, scores)  # pyright: ignore[reportArgumentType]
        # -log of a standard exponential is a standard Gumbel; the floor keeps a draw of 0 finite.
        return scores - noise.clamp_min(1e-30).log()


def row_seed(seed: int, row: int) -> int:
    """A seed for one row; hashed, so that neighbouring seeds and rows share no draws."""
    digest = hashlib.sha256(f"{seed}:{row}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Dropout off inside the block; the mode the model was in comes back after it."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stops: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    rows: Sequence[int],
    top_p: float = 1.0,
    top_k: int = 0,
    **hooks: Any,
) -> list[list[int]]:
    """New ids for each prompt of one batch, the stop id included when one was reached.

    Prompts are padded on the left by position: the attention mask says what is padding, so
    a pad id inside a prompt is an ordinary token. `hooks` go to transformers' `generate`
    (`streamer`, `stopping_criteria`).
    """
    core = core_model(model)
    ids, mask = _left_padded(prompts, pad_id, core.device)
    # A shallow copy shares every weight; with a blank generation config of its own, nothing the
    # model ships (temperature, repetition_penalty, ...) applies, and the model stays untouched.
    bare = copy.copy(core)
    bare.generation_config = GenerationConfig()
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stops) or None,
        pad_token_id=pad_id,
        use_cache=True,
    )
    noise = []
    if temperature > 0:
        noise = [GumbelNoise(temperature, seed, rows, core.device, top_p=top_p, top_k=top_k)]
    with torch.inference_mode(), evaluating(core):
        output = bare.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=settings,
            logits_processor=LogitsProcessorList(noise),
            **hooks,
        )
    return [_until_stop(row, stops) for row in output[:, ids.shape[1] :].tolist()]


def _left_padded(
    prompts: Sequence[Sequence[int]], pad_id: int, device: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, both [batch, longest prompt]; the last column is always a real token."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        mask[row, longest - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def _until_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    """The ids up to and including the first stop id: what follows is padding."""
    for place, token in enumerate(ids):
        if token in stops:
            return ids[: place + 1]
    return ids

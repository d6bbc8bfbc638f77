"""The next token of each row from its logits.

    raw logits ── schema ── penalties ── temperature ── top k ── top p ── Gumbel ──► arg max

The draw is the one of `finery.inference.decoding` (Gumbel-max): each row has a generator of its
own, seeded from its seed alone, so that an answer never depends on its neighbours, and the
same seed gives there and here the same answer. Log-probabilities are of the raw logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from finery.inference.decoding import row_seed
from finery.inference.engine import Token
from finery.inference.engines.torch_rows import Row


def choose(rows: Sequence[Row], logits: Tensor) -> list[Token]:
    """The next token of each row; `logits` is float32 (rows, vocabulary) and may be changed."""
    measures = [_measure(row, logits[i]) for i, row in enumerate(rows)]
    for row, scores in zip(rows, logits, strict=True):
        _shape(row, scores)
    chosen = logits.argmax(-1).tolist()
    return [
        _token(row, token, measure)
        for row, token, measure in zip(rows, chosen, measures, strict=True)
    ]


def _measure(row: Row, scores: Tensor) -> Tensor | None:
    """Log-probabilities (vocabulary,) where the row wants them."""
    return None if row.wanted.logprobs is None else torch.log_softmax(scores, dim=-1)


def _shape(row: Row, scores: Tensor) -> None:
    """Make the arg max of `scores` (vocabulary,), in place, the row's draw."""
    wanted = row.wanted
    if row.matcher is not None:
        allowed = row.matcher.allowed(len(scores)).to(scores.device)
        scores.masked_fill_(~allowed, float("-inf"))
    if row.counts is not None:
        scores.sub_(row.counts, alpha=wanted.frequency_penalty)
        scores.sub_(row.counts.clamp(max=1.0), alpha=wanted.presence_penalty)
    if wanted.temperature == 0:
        return
    scores.div_(wanted.temperature)
    if wanted.top_k:
        _keep_likeliest(scores, wanted.top_k)
    if wanted.top_p < 1.0:
        _keep_mass(scores, wanted.top_p)
    noise = torch.empty_like(scores).exponential_(generator=_generator(row, scores.device))
    scores.sub_(noise.clamp_min_(1e-30).log_())


def _keep_likeliest(scores: Tensor, count: int) -> None:
    """Minus infinity for all that is below the k-th score (Fan et al. 2018, section 5.4)."""
    least = scores.topk(min(count, len(scores))).values[-1]
    scores.masked_fill_(scores < least, float("-inf"))


def _keep_mass(scores: Tensor, mass: float) -> None:
    """Keep the smallest set of tokens whose mass is at least p (Holtzman et al. 2020)."""
    ordered, places = scores.sort()  # as transformers' TopPLogitsWarper: from the least on
    left_out = ordered.softmax(-1).cumsum(-1) <= 1 - mass
    left_out[-1] = False
    scores[places[left_out]] = float("-inf")


def _generator(row: Row, device: torch.device) -> torch.Generator:
    if row.generator is None:
        row.generator = torch.Generator(device).manual_seed(row_seed(row.wanted.seed, 0))
    return row.generator


def _token(row: Row, token: int, measure: Tensor | None) -> Token:
    """Record the token in its row."""
    row.tokens.append(token)
    if row.matcher is not None:
        row.matcher.take(token)
    if row.counts is not None:
        row.counts[token] += 1
    if measure is None:
        return Token(token)
    likeliest: tuple[tuple[int, float], ...] = ()
    if row.wanted.logprobs:
        top = measure.topk(min(row.wanted.logprobs, len(measure)))
        likeliest = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    return Token(token, float(measure[token]), likeliest)


def penalty_counts(row: Row, vocabulary: int, device: torch.device) -> Tensor | None:
    """Room for the occurrences of tokens in an answer; None where no penalty asks for them."""
    wanted = row.wanted
    if wanted.frequency_penalty == 0 and wanted.presence_penalty == 0:
        return None
    return torch.zeros(vocabulary, device=device)

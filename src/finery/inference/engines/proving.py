"""The proof that an engine computes the model it was given, made at every start of a replica.

Two things are asked of it. The same text: at every place of the reference's answers, all
before it being given, the engine's greedy token must be the reference's, or one that the
reference holds nearly as likely. And the same ends: as many tokens as are asked for where no
stop id is given, whatever the model's own configuration says; the first stop id where one is.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.chat.golden import GOLDEN_FILE
from finery.errors import FineryError
from finery.files import read_json
from finery.inference.engine import Engine, Generation
from finery.inference.engines.reference import Place, Reference

if TYPE_CHECKING:
    from finery.chat.render import Renderer


class ProofError(FineryError):
    """An engine that does not compute its model: nothing may be served by it."""


@dataclass(frozen=True)
class Limits:
    """What rounding explains, by the precision of the weights."""

    share: float  # of the places, at least, where the greedy tokens must be the same
    gap: float  # nats, at most, by which the engine's token may be less likely where they differ


# float32: another order of the same sums changes a logit by some 1e-5 of its size; only ties
# that close may fall the other way. bfloat16 keeps 8 bits of a weight, so it is off by 0.2 %
# of itself at most. int8 has 255 steps over a channel's range, which is about 8 standard
# deviations: its error has the size of noise of 1 % of a deviation (8 / 255 / sqrt(12)).
# What that does was measured by adding such noise to a model of 15 M weights: noise of 1 % left
# 93 % of the tokens the same with a widest gap of 0.9, noise of 5 % left 74 % with 3.8, a layer
# without its attention or its MLP at most 69 % with 3 to 18. Honest engines, on that model and
# on one of 135 M weights, had in bfloat16 98 % and 96 % (gaps 0.05, 0.15), in int8
# 93 % to 95 % (gaps up to 0.37).
LIMITS = {
    "float32": Limits(0.99, 0.001),
    "bfloat16": Limits(0.90, 0.50),
    "float16": Limits(0.90, 0.50),
    "int8": Limits(0.85, 1.50),
}


@dataclass(frozen=True)
class Proof:
    """What was compared and how it came out; a part of ready.json."""

    precision: str
    places: int
    same: int
    widest_gap: float  # nats; 0.0 where all are the same
    seconds: float

    def written(self) -> dict[str, Any]:
        """For ready.json and the log."""
        limits = limits_of(self.precision)
        return {**asdict(self), "least_share": limits.share, "most_gap": limits.gap}


def limits_of(precision: str) -> Limits:
    """The limits of a precision; those of the coarsest that is known, for one that is not."""
    return LIMITS.get(precision, LIMITS["int8"])


async def prove(engine: Engine, reference: Reference, *, adapter: str = "") -> Proof:
    """Compare `engine` with `reference`; raises ProofError with the figures when it fails."""
    start = time.perf_counter()
    pairs = list(zip(reference.prompts, reference.answers, strict=True))
    total = sum(len(answer) for _, answer in pairs)
    # A reference that had to be computed in 16 bits rounds too.
    limits = limits_of(engine.precision)
    if reference.precision != "float32":
        rough = limits_of(reference.precision)
        limits = Limits(min(limits.share, rough.share), max(limits.gap, rough.gap))
    budget = _Budget(int(total * (1 - limits.share)))
    comparing = [_compare(engine, prompt, answer, adapter, budget) for prompt, answer in pairs]
    gaps = [gap for gaps in await asyncio.gather(*comparing) for gap in gaps]
    proof = Proof(
        engine.precision,
        total,
        total - len(gaps),
        round(max(gaps, default=0.0), 4),
        round(time.perf_counter() - start, 3),
    )
    whom = f"The {engine.name} engine" + (f" with the adapter {adapter}" if adapter else "")
    if budget.spent or proof.widest_gap > limits.gap:
        raise ProofError(
            f"{whom} does not compute this model: of {total} tokens of greedy answers "
            f"{'at most ' if budget.spent else ''}{proof.same} are those of transformers in "
            f"{reference.precision}, and one is {proof.widest_gap:.3f} nats less likely. With "
            f"{engine.precision} weights at least {limits.share:.0%} must be the same and none "
            f"more than {limits.gap:g} nats less likely. Nothing is served by it."
        )
    await _prove_ends(engine, reference.prompts[0], reference.answers[0], adapter)
    return proof


def check_stop_ids(renderer: Renderer, folder: Path) -> None:
    """Raise ProofError when answers would end at other ids than those the model was saved with.

    The golden vectors show ids of whole conversations; which of them end an answer is told by
    tokenizer files beside them. A folder without golden vectors has nothing to compare with.
    """
    if not (folder / GOLDEN_FILE).is_file():
        return
    saved = read_json(folder / GOLDEN_FILE).get("stop_ids")
    if saved is not None and sorted(saved) != sorted(renderer.stop_ids):
        raise ProofError(
            f"Answers of the model in {folder} ended with the ids {sorted(saved)} when it was "
            f"saved; by its tokenizer files they end with {sorted(renderer.stop_ids)} now. "
            "Restore tokenizer_config.json and special_tokens_map.json."
        )


class _Budget:
    """How many places may still differ before the outcome is certain."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.count = 0

    @property
    def spent(self) -> bool:
        return self.count > self.most


async def _compare(
    engine: Engine,
    prompt: tuple[int, ...],
    answer: tuple[Place, ...],
    adapter: str,
    budget: _Budget,
) -> list[float]:
    """The gaps of the places that differ, every token before each place being the reference's.

    A greedy answer is compared up to its first other token; the next one begins behind it.
    """
    ids = tuple(place.id for place in answer)
    gaps: list[float] = []
    place = 0
    while place < len(ids) and not budget.spent:
        wanted = Generation((*prompt, *ids[:place]), len(ids) - place, adapter=adapter)
        made = [token.id async for token in engine.generate(wanted)]
        if len(made) != wanted.max_new_tokens:
            raise ProofError(
                f"The {engine.name} engine made {len(made)} tokens where "
                f"{wanted.max_new_tokens} were asked for and no stop id was given. "
                "Nothing is served by it."
            )
        other = next((i for i, token in enumerate(made) if token != ids[place + i]), None)
        if other is None:
            break
        place += other
        gaps.append(answer[place].gap(made[other]))
        budget.count += 1
        place += 1
    return gaps


async def _prove_ends(
    engine: Engine, prompt: tuple[int, ...], answer: tuple[Place, ...], adapter: str
) -> None:
    """An answer ends with the first stop id in it, and nowhere else."""
    ids = [place.id for place in answer]
    middle = next((i for i in range(1, len(ids)) if ids[i] not in ids[:i]), 0)
    wanted = Generation(prompt, len(ids), stop_ids=(ids[middle],), adapter=adapter)
    made = [token.id async for token in engine.generate(wanted)]
    rightly = made.index(ids[middle]) + 1 if ids[middle] in made else wanted.max_new_tokens
    if len(made) != rightly:
        raise ProofError(
            f"The {engine.name} engine ended an answer after {len(made)} tokens that the stop id "
            f"{ids[middle]} and the limit of {wanted.max_new_tokens} end after {rightly}. "
            "Nothing is served by it."
        )

"""How sure a difference is: 95 % intervals for paired losses and for rates.

Covered: variation between rows, which is what a held-out file of some tens to thousands of
rows can show. Not covered: the variation between training seeds.

Losses use the percentile bootstrap over rows (Efron and Tibshirani 1993, chapter 13), rows
drawn as pairs so that a row's difficulty cancels. Rates use closed forms that stay honest
when every row passes: Wilson 1927 for one rate, and Newcombe 1998 (Statistics in Medicine 17,
2635-2650, method 10) for the difference of two rates on the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
DRAWS = 2000
# Counts of one block of draws, in elements: 2 million int64 are 16 MB.
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds that hold it with the stated confidence."""

    estimate: float
    low: float
    high: float
    confidence: float = CONFIDENCE


def paired_interval(
    base: ArrayLike,
    tuned: ArrayLike,
    weights: ArrayLike,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The interval of sum(tuned - base) / sum(weights), rows drawn with replacement.

    Three arrays [rows]: summed losses of both models and the tokens they were summed over, so
    long rows weigh more, as they do in the mean loss itself. Rows without tokens say nothing
    and are left out. Raises ValueError on unequal shapes, values that are not finite, or
    fewer than two rows with tokens: one row has no spread to learn from.
    """
    arrays = [np.asarray(values, dtype=np.float64) for values in (base, tuned, weights)]
    if len({array.shape for array in arrays}) != 1 or arrays[0].ndim != 1:
        raise ValueError(f"expected three arrays [rows], got {[a.shape for a in arrays]}")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("an interval needs finite losses and weights")
    counted = arrays[2] > 0
    gains, weight = (arrays[1] - arrays[0])[counted], arrays[2][counted]
    if len(gains) < 2:
        raise ValueError(f"an interval needs two rows with tokens, got {len(gains)}")
    drawn = _drawn_ratios(gains, weight, draws, np.random.default_rng(seed))
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(gains.sum() / weight.sum()), float(low), float(high), confidence)


def _drawn_ratios(
    gains: np.ndarray, weight: np.ndarray, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """The ratio of sums in each draw, [draws]; a draw is how often each row was taken."""
    rows = len(gains)
    block = max(1, _BLOCK // rows)
    ratios = []
    for start in range(0, draws, block):
        size = min(block, draws - start)
        counts = rng.multinomial(rows, np.full(rows, 1 / rows), size=size)
        ratios.append(counts @ gains / (counts @ weight))
    return np.concatenate(ratios)


def rate_interval(passed: Sequence[bool], *, confidence: float = CONFIDENCE) -> Interval:
    """The interval of one rate (Wilson's score); raises ValueError without rows."""
    if not passed:
        raise ValueError("a rate needs at least one row")
    rows, rate = len(passed), sum(passed) / len(passed)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (rate + z * z / (2 * rows)) / (1 + z * z / rows)
    reach = z / (1 + z * z / rows) * math.sqrt(rate * (1 - rate) / rows + (z / (2 * rows)) ** 2)
    return Interval(rate, max(0.0, centre - reach), min(1.0, centre + reach), confidence)


def paired_rate_interval(
    base: Sequence[bool], tuned: Sequence[bool], *, confidence: float = CONFIDENCE
) -> Interval:
    """The interval of (tuned rate - base rate) on the same rows; raises ValueError without."""
    if len(base) != len(tuned):
        raise ValueError(f"{len(base)} base rows against {len(tuned)} tuned rows")
    one = rate_interval(tuned, confidence=confidence)
    two = rate_interval(base, confidence=confidence)
    phi = _agreement(base, tuned)
    difference = one.estimate - two.estimate
    down = _reach(one.estimate - one.low, two.high - two.estimate, phi)
    up = _reach(one.high - one.estimate, two.estimate - two.low, phi)
    return Interval(difference, difference - down, difference + up, confidence)


def _reach(mine: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, mine * mine - 2 * phi * mine * other + other * other))


def _agreement(base: Sequence[bool], tuned: Sequence[bool]) -> float:
    """The phi coefficient of the two outcomes with Newcombe's continuity correction."""
    pairs = list(zip(base, tuned, strict=True))
    both, neither = pairs.count((True, True)), pairs.count((False, False))
    only_tuned, only_base = pairs.count((False, True)), pairs.count((True, False))
    margins = (
        (both + only_tuned) * (only_base + neither) * (both + only_base) * (only_tuned + neither)
    )
    if not margins:
        return 0.0
    cross = both * neither - only_tuned * only_base
    if cross > 0:
        cross = max(cross - len(pairs) / 2, 0.0)
    return cross / math.sqrt(margins)

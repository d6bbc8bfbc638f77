"""Intervals hold what they promise: coverage counted on data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from finery.evaluation.intervals import paired_interval, paired_rate_interval, rate_interval


def test_the_loss_interval_covers_the_truth_in_about_95_of_100_samples() -> None:
    rng = np.random.default_rng(7)
    truth, covered, samples = -0.3, 0, 400
    for sample in range(samples):
        tokens = rng.integers(5, 200, size=80)
        base_mean = rng.normal(2.5, 0.8, size=80)  # rows differ far more than the models do
        tuned_mean = base_mean + truth + rng.normal(0, 0.4, size=80)
        interval = paired_interval(
            base_mean * tokens, tuned_mean * tokens, tokens, draws=400, seed=sample
        )
        covered += interval.low <= truth <= interval.high
    assert 0.91 <= covered / samples <= 0.98


def test_pairing_makes_the_interval_narrower_than_the_spread_of_rows() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(3.0, 1.0, size=50)
    tuned = base - 0.1 + rng.normal(0, 0.01, size=50)
    interval = paired_interval(base * 10, tuned * 10, np.full(50, 10))
    assert interval.estimate == pytest.approx(-0.1, abs=0.01)
    assert interval.high - interval.low < 0.02
    assert interval.low < interval.estimate < interval.high < 0


def test_rows_weigh_by_their_tokens() -> None:
    interval = paired_interval([10.0, 100.0], [10.0, 50.0], [10, 90])
    assert interval.estimate == pytest.approx(-0.5)


def test_rows_without_tokens_change_nothing() -> None:
    with_empty = paired_interval([4.0, 0.0, 6.0], [3.0, 0.0, 4.0], [2, 0, 2], seed=3)
    assert with_empty == paired_interval([4.0, 6.0], [3.0, 4.0], [2, 2], seed=3)


def test_the_same_seed_gives_the_same_interval_and_leaves_numpy_random_alone() -> None:
    rng = np.random.default_rng(1)
    base, tuned = rng.normal(size=(2, 30))
    np.random.seed(0)
    untouched = np.random.random()
    np.random.seed(0)
    first = paired_interval(base, tuned, np.ones(30), seed=5)
    assert first == paired_interval(base, tuned, np.ones(30), seed=5)
    assert first != paired_interval(base, tuned, np.ones(30), seed=6)
    assert np.random.random() == untouched


@pytest.mark.parametrize(
    ("base", "tuned", "weights", "reason"),
    [
        ([1.0], [2.0], [3], "two rows"),
        ([1.0, 2.0], [2.0, 3.0], [3, 0], "two rows"),
        ([1.0, float("nan")], [2.0, 3.0], [3, 3], "finite"),
        ([1.0, 2.0], [2.0, 3.0, 4.0], [3, 3], "three arrays"),
    ],
)
def test_an_interval_that_cannot_be_told_is_refused(
    base: list[float], tuned: list[float], weights: list[int], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        paired_interval(base, tuned, weights)


def test_the_rate_difference_covers_the_truth_in_about_95_of_100_samples() -> None:
    rng = np.random.default_rng(11)
    covered, samples = 0, 1000
    for _ in range(samples):
        ease = rng.random(24)
        base, tuned = ease > 0.5, ease + rng.normal(0, 0.2, size=24) > 0.35
        interval = paired_rate_interval(base.tolist(), tuned.tolist())
        covered += interval.low <= _TRUTH <= interval.high
    assert 0.93 <= covered / samples <= 0.995


def _truth() -> float:
    rng = np.random.default_rng(99)
    ease = rng.random(400_000)
    return float((ease + rng.normal(0, 0.2, size=ease.size) > 0.35).mean() - 0.5)


_TRUTH = _truth()


@pytest.mark.parametrize(
    ("both", "tuned_only", "base_only", "neither", "low", "high"),
    [(20, 12, 2, 16, 0.0562, 0.3292), (36, 12, 2, 0, 0.0569, 0.3404)],
)
def test_the_rate_difference_equals_newcombe_1998_method_10(
    both: int, tuned_only: int, base_only: int, neither: int, low: float, high: float
) -> None:
    tuned = [True] * (both + tuned_only) + [False] * (base_only + neither)
    base = [True] * both + [False] * tuned_only + [True] * base_only + [False] * neither
    interval = paired_rate_interval(base, tuned)
    found = (interval.estimate, interval.low, interval.high)
    assert found == pytest.approx((0.2, low, high), abs=5e-5)


def test_a_rate_of_all_rows_is_not_called_certain() -> None:
    interval = rate_interval([True] * 10)
    assert interval.high == 1.0
    assert interval.low == pytest.approx(0.7225, abs=1e-4)  # Wilson: n / (n + z^2)
    both = paired_rate_interval([True] * 10, [True] * 10)
    assert both.low < 0 < both.high


def test_a_rate_of_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        rate_interval([])
    with pytest.raises(ValueError, match="1 base rows against 2"):
        paired_rate_interval([True], [True, False])

"""A comparison says what is known, and why the rest is not."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from finery.evaluation.answers import AnsweredRow
from finery.evaluation.compare import compare


@dataclass(frozen=True)
class Losses:
    """The four arrays [rows] of measured losses."""

    loss_sum: np.ndarray
    tokens: np.ndarray
    all_loss_sum: np.ndarray
    all_tokens: np.ndarray


def _losses(per_token: list[float], tokens: tuple[int, ...] = (10, 20, 30)) -> Any:
    counts = np.array(tokens)
    sums = np.array(per_token) * counts
    return Losses(sums, counts, sums * 3, counts * 2)


def _answer(row: int, text: str | None, **more: Any) -> AnsweredRow:
    fields = {"reference": "the cat sat", "expect": None, "passed": None, **more}
    return AnsweredRow("t.jsonl", row, (), answer=text, **fields)


BASE, TUNED = _losses([3.0, 2.0, 2.0]), _losses([2.0, 1.5, 1.0])


def test_losses_are_means_over_tokens_with_their_difference_and_interval() -> None:
    found = compare(BASE, TUNED, [], []).assistant_loss
    assert found is not None and found.difference is not None
    assert (found.rows, found.tokens) == (3, 60)
    assert found.base == pytest.approx((30 + 40 + 60) / 60)
    assert found.tuned == pytest.approx((20 + 30 + 30) / 60)
    assert found.tuned_perplexity == pytest.approx(math.exp(80 / 60))
    assert found.difference.estimate == pytest.approx(-50 / 60)
    assert found.difference.low <= found.difference.estimate <= found.difference.high < 0


def test_the_loss_over_all_tokens_is_a_second_figure() -> None:
    found = compare(BASE, TUNED, [], []).all_loss
    assert found is not None
    assert (found.tokens, found.tuned) == (120, pytest.approx(80 * 3 / 120))


def test_a_loss_that_is_nan_is_absent_and_named_and_the_json_stays_valid() -> None:
    broken = replace(TUNED, loss_sum=np.array([1.0, float("nan"), 2.0]))
    found = compare(BASE, broken, [], [])
    assert found.assistant_loss is not None
    assert (found.assistant_loss.tuned, found.assistant_loss.difference) == (None, None)
    assert any("1 of 3 rows have a loss that is not a finite number" in m for m in found.missing)
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_perplexity_too_large_for_a_float_is_absent() -> None:
    found = compare(None, _losses([800.0, 800.0, 800.0]), None, []).assistant_loss
    assert found is not None
    assert (found.tuned, found.tuned_perplexity) == (pytest.approx(800.0), None)


def test_one_row_gives_a_loss_but_no_interval() -> None:
    found = compare(_losses([2.0], (5,)), _losses([1.0], (5,)), [], [])
    assert found.assistant_loss is not None and found.assistant_loss.tuned == 1.0
    assert found.assistant_loss.difference is None
    assert any("one row has no spread" in sentence for sentence in found.missing)


def test_models_that_split_text_differently_get_no_difference() -> None:
    found = compare(_losses([2.0, 2.0, 2.0], (9, 20, 30)), TUNED, [], [])
    assert found.assistant_loss is not None and found.assistant_loss.base == pytest.approx(2.0)
    assert found.assistant_loss.difference is None
    assert any("different tokens" in sentence for sentence in found.missing)


def test_rows_without_a_trained_token_give_no_loss() -> None:
    found = compare(None, _losses([0.0, 0.0, 0.0], (0, 0, 0)), None, [])
    assert found.assistant_loss is None
    assert any("no row has such a token" in sentence for sentence in found.missing)


def test_a_model_alone_has_figures_of_its_own_and_no_difference() -> None:
    found = compare(None, TUNED, None, [_answer(1, "the cat sat", expect=("cat",), passed=True)])
    assert found.assistant_loss is not None and found.assistant_loss.base is None
    assert not found.has_base
    assert found.base_metrics is None and found.tuned_metrics is not None
    assert found.tuned_metrics["rouge1"] == pytest.approx(1.0)
    assert found.checks is not None and found.checks.difference is None


def test_both_models_are_scored_on_the_rows_both_answered() -> None:
    base = [_answer(1, "a dog ran"), _answer(2, None, problem="the prompt is long")]
    tuned = [_answer(1, "the cat sat"), _answer(2, "the cat sat")]
    found = compare(BASE, TUNED, base, tuned)
    assert found.metric_rows == 1
    assert found.base_metrics is not None and found.base_metrics["rouge1"] == 0.0
    assert "answer to t.jsonl:2: the prompt is long" in found.missing


def test_checked_rates_come_with_intervals_for_both_and_for_the_difference() -> None:
    base = [_answer(n, "x", expect=("4",), passed=n < 3) for n in range(10)]
    tuned = [_answer(n, "4", expect=("4",), passed=n < 9) for n in range(10)]
    checks = compare(None, TUNED, base, tuned).checks
    assert checks is not None and checks.base is not None and checks.difference is not None
    assert (checks.rows, checks.base.estimate, checks.tuned.estimate) == (10, 0.3, 0.9)
    assert checks.difference.estimate == pytest.approx(0.6)
    assert checks.difference.low > 0


def test_speed_is_reported_for_each_model() -> None:
    base = [_answer(1, "a", new_tokens=10, seconds=1.0)]
    tuned = [_answer(1, "a", new_tokens=30, seconds=1.0)]
    found = compare(BASE, TUNED, base, tuned)
    assert (found.base_tokens_per_s, found.tuned_tokens_per_s) == (10.0, 30.0)


def test_what_was_not_asked_for_is_said() -> None:
    found = compare(None, None, None, [])
    assert found.missing == (
        "generated answers: none were asked for",
        "held-out loss: it was not measured",
    )
    assert compare(None, TUNED, None, [_answer(1, "x", reference=None)]).missing == (
        "BLEU and ROUGE: no answered row has a reference",
    )


def test_answers_of_other_rows_are_a_defect_not_a_result() -> None:
    with pytest.raises(ValueError, match="different rows"):
        compare(BASE, TUNED, [_answer(1, "a")], [_answer(2, "a")])

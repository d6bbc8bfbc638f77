"""Base against tuned on the same held-out rows: losses, answers, and how sure the difference is.

Every figure is a number or absent with a sentence in `missing` that says why; none is NaN.
A comparison without a base (None) describes the tuned model alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from finery.evaluation.answers import AnsweredRow, tokens_per_second
from finery.evaluation.intervals import (
    Interval,
    paired_interval,
    paired_rate_interval,
    rate_interval,
)
from finery.evaluation.text_metrics import text_metrics

if TYPE_CHECKING:
    from finery.evaluation.loss import RowLosses


@dataclass(frozen=True)
class LossPair:
    """Mean loss per token, in nats, over one kind of token; `difference` is tuned minus base."""

    rows: int
    tokens: int
    base: float | None
    tuned: float | None
    base_perplexity: float | None
    tuned_perplexity: float | None
    difference: Interval | None


@dataclass(frozen=True)
class Checks:
    """How many answers hold what their row expects."""

    rows: int
    base: Interval | None
    tuned: Interval
    difference: Interval | None


@dataclass(frozen=True)
class Comparison:
    """All figures of a base-versus-tuned evaluation."""

    has_base: bool  # whether a base was measured at all
    assistant_loss: LossPair | None  # tokens the assistant wrote: the headline
    all_loss: LossPair | None  # every token of the conversation but the first
    base_metrics: dict[str, float] | None  # BLEU and ROUGE from 0 to 1
    tuned_metrics: dict[str, float] | None
    metric_rows: int
    checks: Checks | None
    base_tokens_per_s: float | None
    tuned_tokens_per_s: float | None
    missing: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; absent figures are null, and `missing` says why."""
        return {**asdict(self), "missing": list(self.missing)}


def compare(
    base_losses: RowLosses | None,
    tuned_losses: RowLosses | None,
    base_answers: Sequence[AnsweredRow] | None,
    tuned_answers: Sequence[AnsweredRow],
    *,
    seed: int = 0,
) -> Comparison:
    """Compare two models row by row; losses and answers must be of the same rows in order.

    Raises ValueError when they are not (a programming error).
    """
    missing: list[str] = []
    pairs = _pairs(base_answers, tuned_answers, missing)
    scored = [pair for pair in pairs if pair[1].reference is not None]
    if pairs and not scored:
        missing.append("BLEU and ROUGE: no answered row has a reference")
    return Comparison(
        has_base=base_losses is not None or base_answers is not None,
        assistant_loss=_losses("", base_losses, tuned_losses, seed, missing),
        all_loss=_losses("all_", base_losses, tuned_losses, seed, missing),
        base_metrics=_metrics([base for base, _ in scored if base is not None]),
        tuned_metrics=_metrics([tuned for _, tuned in scored]),
        metric_rows=len(scored),
        checks=_checks(pairs),
        base_tokens_per_s=tokens_per_second(base_answers or []),
        tuned_tokens_per_s=tokens_per_second(tuned_answers),
        missing=tuple(missing),
    )


def _losses(
    prefix: str,
    base: RowLosses | None,
    tuned: RowLosses | None,
    seed: int,
    missing: list[str],
) -> LossPair | None:
    """The loss over assistant tokens (prefix "") or all tokens (prefix "all_")."""
    if tuned is None:
        if not prefix:
            missing.append("held-out loss: it was not measured")
        return None
    name = "loss over all tokens" if prefix else "loss over assistant tokens"
    tuned_sums, tokens = _arrays(tuned, prefix)
    if not tokens.sum():
        missing.append(f"{name}: no row has such a token")
        return None
    base_mean, difference = None, None
    tuned_mean = _mean(f"{name} (tuned)", tuned_sums, tokens, missing)
    if base is not None:
        base_sums, base_tokens = _arrays(base, prefix)
        if len(base_sums) != len(tuned_sums):
            raise ValueError(f"{len(base_sums)} base rows against {len(tuned_sums)} tuned rows")
        base_mean = _mean(f"{name} (base)", base_sums, base_tokens, missing)
        if not np.array_equal(base_tokens, tokens):
            missing.append(
                f"{name}, difference: the two models split the text into different tokens, "
                "so their losses per token are not of one kind"
            )
        elif base_mean is not None and tuned_mean is not None:
            difference = _difference(name, base_sums, tuned_sums, tokens, seed, missing)
    return LossPair(
        rows=int((tokens > 0).sum()),
        tokens=int(tokens.sum()),
        base=base_mean,
        tuned=tuned_mean,
        base_perplexity=_perplexity(base_mean),
        tuned_perplexity=_perplexity(tuned_mean),
        difference=difference,
    )


def _arrays(losses: RowLosses, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    sums, tokens = getattr(losses, f"{prefix}loss_sum"), getattr(losses, f"{prefix}tokens")
    return np.asarray(sums, dtype=np.float64), np.asarray(tokens, dtype=np.int64)


def _mean(name: str, sums: np.ndarray, tokens: np.ndarray, missing: list[str]) -> float | None:
    bad = int((~np.isfinite(sums)).sum())
    if bad or not tokens.sum():
        missing.append(
            f"{name}: {bad} of {len(sums)} rows have a loss that is not a finite number"
            if bad
            else f"{name}: no row has such a token"
        )
        return None
    return float(sums.sum() / tokens.sum())


def _difference(
    name: str,
    base: np.ndarray,
    tuned: np.ndarray,
    tokens: np.ndarray,
    seed: int,
    missing: list[str],
) -> Interval | None:
    if (tokens > 0).sum() < 2:
        missing.append(f"{name}, interval of the difference: one row has no spread to learn from")
        return None
    return paired_interval(base, tuned, tokens, seed=seed)


def _perplexity(loss: float | None) -> float | None:
    """exp(loss); None past what a float holds (a loss above about 709 nats)."""
    return math.exp(loss) if loss is not None and loss < 709 else None


def _pairs(
    base: Sequence[AnsweredRow] | None, tuned: Sequence[AnsweredRow], missing: list[str]
) -> list[tuple[AnsweredRow | None, AnsweredRow]]:
    """Rows that every model answered, so that both are scored on the same ones."""
    if base is not None and [(r.file, r.row) for r in base] != [(r.file, r.row) for r in tuned]:
        raise ValueError("the base and tuned answers are of different rows")
    rows = list(zip(base if base is not None else [None] * len(tuned), tuned, strict=True))
    kept = [
        (one, two)
        for one, two in rows
        if two.answer is not None and (one is None or one.answer is not None)
    ]
    if not rows:
        missing.append("generated answers: none were asked for")
    for one, two in rows:
        problem = two.problem or (one.problem if one else "")
        if problem:
            missing.append(f"answer to {two.file}:{two.row}: {problem}")
    return kept


def _metrics(rows: Sequence[AnsweredRow]) -> dict[str, float] | None:
    if not rows:
        return None
    return text_metrics([row.answer or "" for row in rows], [row.reference or "" for row in rows])


def _checks(pairs: Sequence[tuple[AnsweredRow | None, AnsweredRow]]) -> Checks | None:
    with_checks = [(base, tuned) for base, tuned in pairs if tuned.expect is not None]
    if not with_checks:
        return None
    tuned = [bool(row.passed) for _, row in with_checks]
    base = [bool(row.passed) for row, _ in with_checks if row is not None]
    return Checks(
        rows=len(tuned),
        base=rate_interval(base) if base else None,
        tuned=rate_interval(tuned),
        difference=paired_rate_interval(base, tuned) if base else None,
    )

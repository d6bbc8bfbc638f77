"""BLEU and ROUGE against the packages people compare with, on real answers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from rouge_score.rouge_scorer import RougeScorer

from finery.evaluation.text_metrics import (
    METRIC_NAMES,
    ROUGE_NAMES,
    bleu,
    checked,
    rouge,
    text_metrics,
)


def _pairs(path: Path) -> list[tuple[str, str]]:
    """Answers of one conversation against each other and against the next row's."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line)["messages"] for line in lines]
    said = [[m["content"] for m in row if m["role"] == "assistant"] for row in rows]
    within = [(turns[0][:600], turns[-1][:600]) for turns in said if len(turns) > 1]
    across = [(a[-1][:400], b[-1][:400]) for a, b in itertools.pairwise(said)]
    return within + across


def test_rouge_equals_the_rouge_score_package_on_real_answers(kit: Path) -> None:
    scorer = RougeScorer(list(ROUGE_NAMES), use_stemmer=False)
    pairs = _pairs(kit / "chat" / "ultrachat-1k" / "test_sft.jsonl")
    pairs += _pairs(kit / "chat" / "open-mix" / "test_sft.jsonl")[:120]
    assert len(pairs) > 200
    for answer, reference in pairs:
        theirs = scorer.score(reference, answer)
        for name, ours in rouge(answer, reference).items():
            assert ours == pytest.approx(theirs[name].fmeasure, abs=1e-9), (name, answer)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("", "some words"),
        ("some words", ""),
        ("", ""),
        ("\n\n", "a\n\nb"),
        ("!!!", "???"),
        ("the the the", "the cat\nthe dog"),
        ("a b c\nd e f", "c b a\nf e d\na b c"),
        ("Ünïcode ß 42", "unicode ss 42"),
        ("one", "one two"),
    ],
)
def test_rouge_equals_the_rouge_score_package_on_odd_text(answer: str, reference: str) -> None:
    theirs = RougeScorer(list(ROUGE_NAMES), use_stemmer=False).score(reference, answer)
    expected = {name: theirs[name].fmeasure for name in ROUGE_NAMES}
    assert rouge(answer, reference) == pytest.approx(expected, abs=1e-9)


def test_identical_answers_score_one_in_every_metric() -> None:
    rows = ["The quick brown fox jumps over the lazy dog.", "A second answer of a few words."]
    assert text_metrics(rows, rows) == pytest.approx(dict.fromkeys(METRIC_NAMES, 1.0))


def test_bleu_1_is_clipped_precision_with_brevity_penalty() -> None:
    # Papineni 2002, section 2.2: seven times "the" matches the reference's two at most.
    score = bleu(["the the the the the the the"], ["The cat is on the mat , the end"])
    assert score["bleu_1"] == pytest.approx(2 / 7 * 2.718281828459045 ** (1 - 9 / 7))
    assert score["bleu_2"] == 0.0


def test_bleu_counts_the_whole_corpus_not_the_mean_of_rows() -> None:
    score = bleu(["a b c d", "x"], ["a b c d", "y"])["bleu_1"]
    assert score == pytest.approx(4 / 5)


def test_metrics_of_nothing_or_of_unequal_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="0 answers"):
        text_metrics([], [])
    with pytest.raises(ValueError, match="2 answers against 1"):
        text_metrics(["a", "b"], ["a"])


@pytest.mark.parametrize(
    ("answer", "expect", "passes"),
    [
        ("The answer is  PARIS,\nFrance.", ["paris, france"], True),
        ("The answer is Paris.", ["Paris", "France"], False),
        ("STRASSE", ["straße"], True),
        ("", ["x"], False),
    ],
)
def test_a_check_ignores_case_and_spacing(answer: str, expect: list[str], passes: bool) -> None:
    assert checked(answer, expect) is passes

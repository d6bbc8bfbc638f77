"""BLEU, ROUGE and exact checks of answers against references.

The scores Azure ML's chat evaluation names: `bleu_1` … `bleu_4` over the whole corpus, and the
mean over rows of `rouge1`, `rouge2`, `rougeL`, `rougeLsum` F1; all from 0 to 1.

BLEU is sacrebleu's (Papineni 2002; Post 2018) with tokenizer 13a, case kept, the order limited
to n, and no smoothing: a corpus without one common n-gram scores 0. ROUGE is Lin 2004 as the
`rouge-score` package computes it without stemming; our tests hold the two equal. Its words
are runs of ASCII letters and digits, so ROUGE says nothing about text in other scripts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

BLEU_ORDERS = (1, 2, 3, 4)
ROUGE_NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
METRIC_NAMES = (*(f"bleu_{order}" for order in BLEU_ORDERS), *ROUGE_NAMES)


def text_metrics(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Every metric of `METRIC_NAMES`; raises ValueError on no rows or unequal counts."""
    if not answers or len(answers) != len(references):
        raise ValueError(f"{len(answers)} answers against {len(references)} references")
    scores = bleu(answers, references)
    rows = [rouge(answer, reference) for answer, reference in zip(answers, references, strict=True)]
    return scores | {name: sum(row[name] for row in rows) / len(rows) for name in ROUGE_NAMES}


def bleu(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU of each order, one reference a row."""
    from sacrebleu.metrics.bleu import BLEU

    scores = {}
    for order in BLEU_ORDERS:
        metric = BLEU(tokenize="13a", max_ngram_order=order, smooth_method="none")
        scores[f"bleu_{order}"] = metric.corpus_score(answers, [references]).score / 100
    return scores


def rouge(answer: str, reference: str) -> dict[str, float]:
    """F1 of one answer: n-gram overlap, longest common subsequence, and its summary form."""
    ours, theirs = _words(answer), _words(reference)
    longest = _lengths(theirs, ours)[-1][-1]
    return {
        "rouge1": _overlap(ours, theirs, 1),
        "rouge2": _overlap(ours, theirs, 2),
        "rougeL": _f1(longest, len(ours), len(theirs)),
        "rougeLsum": _summary(_lines(answer), _lines(reference)),
    }


def checked(answer: str, expect: Iterable[str]) -> bool:
    """Whether every string of `expect` occurs in the answer; case and runs of space ignored."""
    text = _folded(answer)
    return all(_folded(wanted) in text for wanted in expect)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _lines(text: str) -> list[list[str]]:
    return [_words(line) for line in text.split("\n") if line]


def _f1(hits: int, ours: int, theirs: int) -> float:
    return 2 * hits / (ours + theirs) if hits else 0.0


def _overlap(ours: list[str], theirs: list[str], order: int) -> float:
    counts = [
        Counter(zip(*(words[start:] for start in range(order)), strict=False))
        for words in (ours, theirs)
    ]
    return _f1((counts[0] & counts[1]).total(), counts[0].total(), counts[1].total())


def _lengths(theirs: list[str], ours: list[str]) -> list[list[int]]:
    """Table [len(theirs) + 1][len(ours) + 1]: longest common subsequence of the two prefixes."""
    table = [[0] * (len(ours) + 1)]
    for word in theirs:
        above, row, left = table[-1], [0], 0
        for column, other in enumerate(ours):
            left = above[column] + 1 if word == other else max(above[column + 1], left)
            row.append(left)
        table.append(row)
    return table


def _common_places(theirs: list[str], ours: list[str]) -> set[int]:
    """Places in `theirs` of one longest common subsequence.

    Where several are equally long the choice decides the union below, so it is the one of
    ROUGE-1.5.5 and rouge-score: leave out a word of theirs first.
    """
    table = _lengths(theirs, ours)
    row, column, places = len(theirs), len(ours), set()
    while row and column:
        if theirs[row - 1] == ours[column - 1]:
            row, column = row - 1, column - 1
            places.add(row)
        elif table[row][column - 1] > table[row - 1][column]:
            column -= 1
        else:
            row -= 1
    return places


def _summary(ours: list[list[str]], theirs: list[list[str]]) -> float:
    """Lin 2004, section 3.2: union of each reference line's subsequences with every line.

    A word counts no more often than both sides have it, as in ROUGE-1.5.5.
    """
    left = Counter(word for line in ours for word in line)
    right = Counter(word for line in theirs for word in line)
    total_ours, total_theirs, hits = left.total(), right.total(), 0
    for line in theirs:
        union = set().union(*(_common_places(line, other) for other in ours))
        for place in sorted(union):
            word = line[place]
            if left[word] > 0 and right[word] > 0:
                hits += 1
                left[word] -= 1
                right[word] -= 1
    return _f1(hits, total_ours, total_theirs)

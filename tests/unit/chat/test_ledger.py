"""No training starts on an account that does not close."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from finery.chat.ledger import Ledger, RowLoss, from_dict
from finery.errors import FineryError

CLOSED = Ledger(
    split="train",
    file="train.jsonl",
    rows_read=14,
    rows_used=13,
    total=1000,
    trained=400,
    context=500,
    dropped=70,
    cut=30,
    trainable=450,
    max_seq_length=64,
    cut_rows=(RowLoss(3, 30, 20, "cut at the end"),),
    dropped_rows=(RowLoss(9, 70, 30, "longer than the limit"),),
)


def test_a_ledger_that_sums_up_is_given_back_as_it_is() -> None:
    assert CLOSED.close() is CLOSED


@pytest.mark.parametrize("name", ["total", "trained", "context", "dropped", "cut", "rows_used"])
@pytest.mark.parametrize("by", [-1, 1])
def test_one_token_or_row_unaccounted_for_stops_the_run(name: str, by: int) -> None:
    wrong = replace(CLOSED, **{name: getattr(CLOSED, name) + by})
    with pytest.raises(FineryError, match="does not close"):
        wrong.close()
    with pytest.raises(FineryError, match="does not close"):
        from_dict(wrong.to_dict())


def test_a_ledger_survives_json() -> None:
    assert from_dict(json.loads(json.dumps(CLOSED.to_dict()))) == CLOSED


def test_a_person_reads_rows_tokens_and_what_was_lost() -> None:
    first, cut, dropped = CLOSED.sentences()
    assert first == (
        "train: 13 of 14 rows, 1,000 tokens = 400 trained + 500 context + 70 dropped + 30 cut"
    )
    assert cut == "train: 1 rows cut at 64 tokens (rows 3): 4.4 % of the trainable tokens"
    assert dropped == "train: 1 rows dropped at 64 tokens (rows 9): 6.7 % of the trainable tokens"
    assert CLOSED.trained_lost == 50


def test_of_many_lost_rows_ten_are_named_and_the_others_counted() -> None:
    losses = tuple(RowLoss(row, 1, 1, "cut at the end") for row in range(1, 15))
    many = replace(CLOSED, cut=14, cut_rows=losses, context=516).close()
    assert "(rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 4 more)" in many.sentences()[1]

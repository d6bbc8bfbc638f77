from __future__ import annotations

import pytest

from finery.chat.conversation import Conversation
from finery.chat.split import split_as_component, split_validation
from finery.errors import FineryError


def _conversation(row: int, text: str | None = None) -> Conversation:
    text = text or f"question {row}"
    answer = {"role": "assistant", "content": "yes"}
    return Conversation(({"role": "user", "content": text}, answer), "a.jsonl", row)


def _rows(conversations: list[Conversation]) -> list[int]:
    return [conversation.row for conversation in conversations]


MANY = [_conversation(n) for n in range(1, 101)]


def test_the_same_seed_gives_these_rows_on_every_machine() -> None:
    train, validation = split_validation(MANY, 10, seed=0)
    assert _rows(validation) == [26, 36, 41, 47, 53, 57, 71, 72, 76, 98]
    assert _rows(train) == [n for n in range(1, 101) if n not in _rows(validation)]


def test_another_seed_gives_other_rows() -> None:
    assert split_validation(MANY, 10, seed=1)[1] != split_validation(MANY, 10, seed=0)[1]


@pytest.mark.parametrize("percent", [0.5, 1, 12.5, 50, 99, 99.9])
def test_the_share_is_kept_and_no_row_is_lost_or_reordered(percent: float) -> None:
    train, validation = split_validation(MANY, percent, seed=3)
    assert abs(len(validation) - percent) <= 1
    assert train and validation
    assert sorted(_rows(train) + _rows(validation)) == _rows(MANY)
    assert _rows(train) == sorted(_rows(train))


@pytest.mark.parametrize("seed", range(20))
def test_a_duplicate_is_never_on_both_sides(seed: int) -> None:
    rows = [_conversation(n, f"question {n % 7}") for n in range(40)]
    train, validation = split_validation(rows, 20, seed)
    assert {row.key for row in train}.isdisjoint(row.key for row in validation)
    assert 1 <= len(validation) <= 8
    assert len(train) + len(validation) == 40


def test_when_every_conversation_is_repeated_the_smallest_group_validates() -> None:
    rows = [_conversation(n, "often" if n > 2 else "twice") for n in range(1, 10)]
    assert _rows(split_validation(rows, 1, seed=0)[1]) == [1, 2]


@pytest.mark.parametrize("percent", [0, -1, 100, 250, float("nan")])
def test_a_share_that_leaves_a_side_empty_is_refused(percent: float) -> None:
    with pytest.raises(FineryError, match="above 0 and below 100"):
        split_validation(MANY, percent, seed=0)


def test_too_few_different_conversations_are_refused() -> None:
    alike = [_conversation(n, "same") for n in range(10)]
    for rows in ([], MANY[:1], alike):
        with pytest.raises(FineryError, match="validation file"):
            split_validation(rows, 20, seed=0)
    with pytest.raises(FineryError, match="3 parts"):
        split_as_component(MANY[:2], seed=0)


def test_without_validation_and_test_the_rows_go_80_10_10() -> None:
    parts = split_as_component(MANY, seed=0)
    assert [len(p) for p in (parts.train, parts.validation, parts.test)] == [80, 10, 10]
    assert sorted(_rows(parts.train + parts.validation + parts.test)) == _rows(MANY)
    three = split_as_component(MANY[:3], seed=0)
    assert [len(p) for p in (three.train, three.validation, three.test)] == [1, 1, 1]


def test_with_test_rows_alone_the_rows_go_80_20() -> None:
    test = [_conversation(1000)]
    parts = split_as_component(MANY, test=test, seed=0)
    assert [len(p) for p in (parts.train, parts.validation)] == [80, 20]
    assert parts.test == test


def test_with_validation_rows_nothing_is_taken() -> None:
    parts = split_as_component(MANY, validation=MANY[:5], seed=0)
    assert (parts.train, parts.validation, parts.test) == (MANY, MANY[:5], [])


def test_a_share_that_was_asked_for_wins_over_the_default_shares() -> None:
    parts = split_as_component(MANY, seed=0, percent=5)
    assert [len(p) for p in (parts.train, parts.validation, parts.test)] == [95, 5, 0]
    assert "5%" in parts.rule

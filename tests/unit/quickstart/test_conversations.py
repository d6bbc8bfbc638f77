"""The conversations of `finery quickstart` are complete, clean and fair to measure with."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import finery

FOLDER = Path(finery.__file__).parent / "quickstart"
Row = dict[str, Any]


def rows_of(name: str) -> list[Row]:
    text = (FOLDER / name).read_bytes().decode("utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def train() -> list[Row]:
    return rows_of("train.jsonl")


@pytest.fixture(scope="module")
def test() -> list[Row]:
    return rows_of("test.jsonl")


def said(row: Row, role: str) -> list[str]:
    return [message["content"] for message in row["messages"] if message["role"] == role]


def normal(text: str) -> str:
    """Words only, so that a changed comma does not pass for a new wording."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def questions(rows: list[Row]) -> list[str]:
    return [normal(question) for row in rows for question in said(row, "user")]


def overlap(left: str, right: str) -> float:
    """Shared words of two questions as a part of all their words, from 0 to 1."""
    one, other = set(left.split()), set(right.split())
    return len(one & other) / len(one | other)


def test_there_are_enough_conversations(train: list[Row], test: list[Row]) -> None:
    assert len(train) >= 300
    assert sum(len(said(row, "user")) > 1 for row in train) >= 80
    assert sum(len(said(row, "system")) > 0 for row in train) >= 20
    assert len(test) == 40
    assert sum(len(said(row, "user")) > 1 for row in test) == 8


def test_every_row_has_its_columns_and_no_others(train: list[Row], test: list[Row]) -> None:
    assert {tuple(sorted(row)) for row in train} == {("messages", "topic")}
    assert {tuple(sorted(row)) for row in test} == {("expect", "messages", "topic")}
    for row in train + test:
        assert isinstance(row["topic"], str)
        assert row["topic"]
        for message in row["messages"]:
            assert set(message) == {"role", "content"}
            assert message["content"] == message["content"].strip() != ""
    for row in test:
        assert 1 <= len(row["expect"]) <= 2
        assert all(isinstance(words, str) and words.strip() for words in row["expect"])


def test_roles_alternate_and_the_desk_has_the_last_word(train: list[Row], test: list[Row]) -> None:
    for row in train + test:
        roles = [message["role"] for message in row["messages"]]
        if roles[0] == "system":
            roles = roles[1:]
        assert 1 <= len(roles) // 2 <= 4
        assert roles == ["user", "assistant"] * (len(roles) // 2)


@pytest.mark.parametrize("name", ["train.jsonl", "test.jsonl", "README.md"])
def test_files_are_plain_text_that_every_terminal_shows(name: str) -> None:
    text = (FOLDER / name).read_bytes().decode("ascii")
    assert text.endswith("\n")
    assert "\r" not in text


def test_no_question_is_asked_twice(train: list[Row], test: list[Row]) -> None:
    counts = Counter(questions(train) + questions(test))
    assert [question for question, count in counts.items() if count > 1] == []


def test_held_out_questions_are_new_wordings(train: list[Row], test: list[Row]) -> None:
    known = questions(train)
    near = [
        (question, other)
        for question in questions(test)
        for other in known
        if overlap(question, other) > 0.65
    ]
    assert near == []


def test_every_held_out_topic_is_taught(train: list[Row], test: list[Row]) -> None:
    assert {row["topic"] for row in test} <= {row["topic"] for row in train}


def test_the_reference_answer_passes_its_own_check(test: list[Row]) -> None:
    for row in test:
        reference = row["messages"][-1]["content"].lower()
        assert [words for words in row["expect"] if words.lower() not in reference] == []


def test_every_checked_fact_is_taught_at_least_five_times(
    train: list[Row], test: list[Row]
) -> None:
    answers = [answer.lower() for row in train for answer in said(row, "assistant")]
    for words in {words for row in test for words in row["expect"]}:
        assert sum(words.lower() in answer for answer in answers) >= 5, words


def test_no_answer_can_be_copied_from_the_prompt(test: list[Row]) -> None:
    for row in test:
        prompt = " ".join(message["content"].lower() for message in row["messages"][:-1])
        assert [words for words in row["expect"] if words.lower() in prompt] == []


def test_answers_are_short(train: list[Row], test: list[Row]) -> None:
    for row in train + test:
        for answer in said(row, "assistant"):
            assert 10 <= len(answer.split()) <= 45, answer

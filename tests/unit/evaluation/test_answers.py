"""Questions made from held-out conversations, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from finery.chat.conversation import Conversation
from finery.errors import InputError
from finery.evaluation.answers import AnsweredRow, questions, tokens_per_second

USER = {"role": "user", "content": "2 + 2?"}
ANSWER = {"role": "assistant", "content": "4"}


def _conversation(*messages: dict[str, Any], **columns: Any) -> Conversation:
    return Conversation(messages, "test.jsonl", 3, None, columns)


def test_the_last_assistant_turn_and_what_follows_it_are_taken_away() -> None:
    (question,) = questions([_conversation(USER, ANSWER, USER, ANSWER, USER)])
    assert question.messages == (USER, ANSWER, USER)
    assert question.reference == "4"
    assert (question.file, question.row) == ("test.jsonl", 3)


def test_a_conversation_that_waits_for_an_answer_is_asked_whole() -> None:
    (question,) = questions([_conversation(USER)])
    assert (question.messages, question.reference) == ((USER,), None)


def test_a_turn_of_tool_calls_alone_is_no_reference_text() -> None:
    turn = {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}
    (question,) = questions([_conversation(USER, turn)])
    assert (question.messages, question.reference) == ((USER,), None)


def test_a_conversation_that_opens_with_its_answer_leaves_nothing_to_ask() -> None:
    (question,) = questions([_conversation(ANSWER)])
    assert question.messages == ()


@pytest.mark.parametrize(
    ("column", "expect"), [("four", ("four",)), (["4", "four"], ("4", "four")), (None, None)]
)
def test_a_row_may_expect_one_string_or_several(column: Any, expect: Any) -> None:
    (question,) = questions([_conversation(USER, ANSWER, expect=column)])
    assert question.expect == expect


def test_every_unusable_expectation_is_named() -> None:
    rows = [_conversation(USER, ANSWER, expect=bad) for bad in ([], 4, ["a", 4], "  ", {"a": 1})]
    with pytest.raises(InputError) as told:
        questions(rows)
    assert len(told.value.faults) == len(rows)
    assert told.value.faults[0].where == "test.jsonl:3:expect"


def test_speed_is_all_new_tokens_over_all_time() -> None:
    rows = [
        AnsweredRow("f", n, (), None, None, "a", None, new_tokens=n * 10, seconds=0.5)
        for n in (1, 3)
    ]
    assert tokens_per_second(rows) == pytest.approx(40.0)
    assert tokens_per_second([]) is None

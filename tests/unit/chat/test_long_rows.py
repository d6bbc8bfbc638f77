"""Rows over the limit: each policy does what its name says, and `auto` asks when it matters."""

from __future__ import annotations

from typing import Any

import pytest
from chat_templates import CHATML, write_tokenizer

from finery.chat.conversation import Conversation
from finery.chat.encode import encode
from finery.chat.ledger import Ledger
from finery.chat.long_rows import Fitted, fit_row, refuse_losses
from finery.chat.render import Renderer, load_renderer
from finery.errors import InputError


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder = tmp_path_factory.mktemp("tokenizer")
    return load_renderer(write_tokenizer(folder, CHATML.template, CHATML.special))


def chat(*texts: str, system: str = "", row: int = 1) -> Conversation:
    roles = ("user", "assistant")
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages += [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return Conversation(tuple(messages), "train.jsonl", row)


def fit(renderer: Renderer, conversation: Conversation, limit: int, policy: str) -> Fitted:
    rendered = renderer.render(conversation.messages)
    return fit_row(renderer, conversation, rendered, limit, policy)


LONG = chat("q1", "a" * 40, "q2", "b" * 40, "q3", "c" * 40)


@pytest.mark.parametrize("policy", ["auto", "truncate", "drop", "keep_last_turns", "refuse"])
def test_a_row_within_the_limit_stays_as_it_is(renderer: Renderer, policy: str) -> None:
    whole = renderer.render(LONG.messages)
    for limit in (len(whole.ids), len(whole.ids) + 1):
        assert fit(renderer, LONG, limit, policy) == Fitted(whole.ids, whole.trained, 0, 0, "")


@pytest.mark.parametrize("policy", ["auto", "truncate"])
def test_truncating_keeps_the_beginning_and_counts_the_rest(
    renderer: Renderer, policy: str
) -> None:
    whole = renderer.render(LONG.messages)
    fitted = fit(renderer, LONG, 100, policy)
    assert (fitted.ids, fitted.trained) == (whole.ids[:100], whole.trained[:100])
    assert fitted.cut == len(whole.ids) - 100
    assert fitted.trained_cut == sum(whole.trained[100:])
    assert fitted.reason == "cut at the end"


def test_truncating_a_row_whose_answer_lies_beyond_the_limit_drops_it(renderer: Renderer) -> None:
    late = chat("q" * 90, "answer")
    fitted = fit(renderer, late, 60, "truncate")
    assert fitted.ids == []
    assert fitted.trained_cut == len("answer") + 1
    assert fitted.reason == "no trainable token within it"


def test_dropping_leaves_the_whole_row_out(renderer: Renderer) -> None:
    whole = renderer.render(LONG.messages)
    fitted = fit(renderer, LONG, len(whole.ids) - 1, "drop")
    assert (fitted.ids, fitted.cut, fitted.trained_cut) == ([], len(whole.ids), sum(whole.trained))


@pytest.mark.parametrize("system", ["", "be kind"])
def test_keeping_the_last_turns_begins_with_a_user_turn_after_the_system_message(
    renderer: Renderer, system: str
) -> None:
    long = chat("q1", "a" * 40, "q2", "b" * 40, "q3", "c" * 40, system=system)
    head = [long.messages[0]] if system else []
    last_two = renderer.render([*head, *long.messages[-4:]])
    last_one = renderer.render([*head, *long.messages[-2:]])
    for limit, wanted in (
        (len(last_two.ids), last_two),
        (len(last_two.ids) - 1, last_one),
        (len(last_one.ids), last_one),
    ):
        fitted = fit(renderer, long, limit, "keep_last_turns")
        assert (fitted.ids, fitted.trained) == (wanted.ids, wanted.trained)
        whole = renderer.render(long.messages)
        assert fitted.cut == len(whole.ids) - len(wanted.ids)
        assert fitted.trained_cut == sum(whole.trained) - sum(wanted.trained)
    nothing = fit(renderer, long, len(last_one.ids) - 1, "keep_last_turns")
    assert nothing.ids == []
    assert "last turn is longer" in nothing.reason


def ledger_of(
    renderer: Renderer, chats: list[Conversation], limit: int, policy: str
) -> tuple[Ledger, str]:
    _, ledger = encode(chats, renderer, split="train", max_seq_length=limit, policy=policy)
    return ledger, policy


SHORT = [chat("hello", "w" * 60, row=row) for row in range(2, 60)]


def test_auto_cuts_a_little_without_asking(renderer: Renderer) -> None:
    ledger, policy = ledger_of(renderer, [LONG, *SHORT], 150, "auto")
    assert 0 < ledger.trained_lost / ledger.trainable < 0.05
    refuse_losses([ledger], policy)


def test_auto_refuses_to_lose_more_than_a_twentieth_and_says_what_to_choose(
    renderer: Renderer,
) -> None:
    ledger, policy = ledger_of(renderer, [LONG, *SHORT[:3]], 110, "auto")
    with pytest.raises(InputError, match=r"max_seq_length.*\n.*1 rows over the limit") as caught:
        refuse_losses([ledger], policy)
    assert "long_rows = truncate, drop or keep_last_turns" in str(caught.value)


def test_auto_refuses_to_drop_a_row_and_names_it(renderer: Renderer) -> None:
    late = chat("q" * 200, "a", row=77)
    ledger, policy = ledger_of(renderer, [late, *SHORT], 150, "auto")
    with pytest.raises(InputError, match=r"train\.jsonl:77: .*lose all of its trainable tokens"):
        refuse_losses([ledger], policy)


@pytest.mark.parametrize("policy", ["truncate", "drop", "keep_last_turns"])
def test_a_named_policy_is_obeyed_whatever_it_costs(renderer: Renderer, policy: str) -> None:
    ledger, _ = ledger_of(renderer, [LONG, *SHORT[:3]], 60, policy)
    assert ledger.trained_lost
    refuse_losses([ledger], policy)


def test_refuse_names_every_long_row_of_every_split(renderer: Renderer) -> None:
    rows = [LONG, chat("x" * 200, "y", row=5), *SHORT[:3]]
    first, _ = ledger_of(renderer, rows, 120, "refuse")
    second, _ = ledger_of(renderer, [chat("p", "z" * 300, row=8)], 120, "refuse")
    with pytest.raises(InputError) as caught:
        refuse_losses([first, second], "refuse")
    assert [fault.where for fault in caught.value.faults] == [
        "train.jsonl:1",
        "train.jsonl:5",
        "train.jsonl:8",
    ]
    length = len(renderer.render(LONG.messages).ids)
    assert caught.value.faults[0].found == f"a row of {length} tokens"

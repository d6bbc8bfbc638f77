"""Azure ML's scoring bodies: which are asks, and how the others are refused."""

from __future__ import annotations

from typing import Any

import pytest

from finery.errors import InputError
from finery.inference.protocol.azure_ml import read_score

HELLO = {"role": "user", "content": "Hello"}
HI = {"role": "assistant", "content": "Hi!"}
WALKTHROUGH = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_new_tokens": 200}


def score(turns: Any, parameters: Any = None, **more: Any) -> dict[str, Any]:
    return {"input_data": {"input_string": turns, "parameters": parameters}, **more}


def test_the_walkthroughs_body_is_one_conversation_in_a_list() -> None:
    asked = read_score(score([[HELLO]], WALKTHROUGH, params={}))
    (ask,) = asked.asks
    assert asked.form == "many"
    assert ask.messages == (HELLO,)
    assert (ask.temperature, ask.top_p, ask.max_new_tokens) == (0.6, 0.9, 200)


def test_a_flat_list_of_messages_is_one_conversation() -> None:
    asked = read_score(score([HELLO, HI, HELLO]))
    assert asked.form == "one"
    assert asked.asks[0].messages == (HELLO, HI, HELLO)


def test_several_conversations_are_several_asks() -> None:
    asked = read_score(score([[HELLO], [HELLO, HI, HELLO]]))
    assert asked.form == "many"
    assert [len(ask.messages) for ask in asked.asks] == [1, 3]


def test_a_list_of_prompts_is_text_generation() -> None:
    asked = read_score({"input_data": ["Once", "Twice"], "params": {"max_new_tokens": 3}})
    assert asked.form == "texts"
    assert [(ask.messages, ask.prompt) for ask in asked.asks] == [((), "Once"), ((), "Twice")]
    assert {ask.max_new_tokens for ask in asked.asks} == {3}


def test_the_answer_is_made_to_the_last_user_turn() -> None:
    (ask,) = read_score(score([[HELLO, HI, HELLO, HI]])).asks
    assert ask.messages == (HELLO, HI, HELLO)


def test_a_body_that_says_nothing_of_sampling_is_answered_greedily() -> None:
    (ask,) = read_score(score([HELLO])).asks
    assert ask.temperature == 0.0
    assert ask.max_new_tokens == 256


def test_do_sample_false_is_greedy_whatever_the_temperature() -> None:
    (ask,) = read_score(score([HELLO], {"temperature": 0.9, "do_sample": False})).asks
    assert ask.temperature == 0.0


def test_a_temperature_alone_asks_for_sampling() -> None:
    (ask,) = read_score(score([HELLO], {"temperature": 0.9})).asks
    assert ask.temperature == 0.9


def test_params_stand_beside_the_parameters_of_the_input() -> None:
    (ask,) = read_score(score([HELLO], {"max_new_tokens": 5}, params={"max_gen_len": 7})).asks
    assert ask.max_new_tokens == 7


@pytest.mark.parametrize("name", ["max_new_tokens", "max_gen_len", "max_tokens"])
def test_every_usual_name_of_the_length_is_taken(name: str) -> None:
    (ask,) = read_score(score([HELLO], {name: 3})).asks
    assert ask.max_new_tokens == 3


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        "Hello",
        {"input_data": "Hello"},
        {"input_data": {}},
        {"input_data": []},
        {"input_data": {"input_string": "Hello"}},
        {"input_data": {"input_string": []}},
        {"inputs": "Hello"},
    ],
)
def test_another_body_is_refused_with_an_example(body: Any) -> None:
    with pytest.raises(InputError, match=r'"input_string": \[\{"role": "user"'):
        read_score(body)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"temperatur": 1}, "Did you mean temperature"),
        ({"temperature": "warm"}, "parameters.temperature"),
        ({"temperature": -1}, "parameters.temperature"),
        ({"temperature": True}, "parameters.temperature"),
        ({"top_p": 0}, "parameters.top_p"),
        ({"max_new_tokens": 0}, "parameters.max_new_tokens"),
        ({"max_new_tokens": 1.5}, "parameters.max_new_tokens"),
        ({"do_sample": "yes"}, "parameters.do_sample"),
        ({"return_full_text": True}, "return_full_text"),
        ({"seed": 2**64}, "parameters.seed"),
        ([], "input_data.parameters"),
    ],
)
def test_a_wrong_parameter_is_named(parameters: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_score(score([HELLO], parameters))


def test_every_fault_of_a_body_is_said_at_once() -> None:
    turns = [[{"role": "usr", "content": "Hello"}], [HI]]
    with pytest.raises(InputError) as told:
        read_score(score(turns, {"top_p": 2, "max_new_tokens": 0}))
    places = [fault.where for fault in told.value.faults]
    assert "parameters.top_p" in places
    assert "parameters.max_new_tokens" in places
    assert "input_data.input_string[0][0].role" in places
    assert "input_data.input_string[1]" in places


@pytest.mark.parametrize(
    "body",
    [
        {"input_data": {"input_string": [HELLO], "columns": []}},
        {"input_data": {"input_string": [HELLO]}, "parameters": {"temperature": 1}},
    ],
)
def test_an_unknown_key_beside_the_input_is_not_left_out_in_silence(body: Any) -> None:
    with pytest.raises(InputError, match=r"columns|body\.parameters"):
        read_score(body)


def test_a_wrong_prompt_is_named() -> None:
    with pytest.raises(InputError, match=r"input_data\[1\]"):
        read_score({"input_data": ["Once", 2]})


def test_more_conversations_than_a_replica_answers_at_once_are_refused() -> None:
    with pytest.raises(InputError, match="at most 64"):
        read_score(score([[HELLO]] * 65))

"""What clients send to a replica: which bodies are asks, and how the others are refused."""

from __future__ import annotations

from typing import Any

import pytest

from finery.errors import InputError
from finery.inference.server_request import ask_from_chat, asks_from_score

HELLO = {"role": "user", "content": "Hello"}
HI = {"role": "assistant", "content": "Hi!"}
WALKTHROUGH = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_new_tokens": 200}


def score(turns: Any, parameters: Any = None, **more: Any) -> dict[str, Any]:
    return {"input_data": {"input_string": turns, "parameters": parameters}, **more}


def test_the_walkthroughs_body_is_one_conversation_in_a_list() -> None:
    (ask,), many = asks_from_score(score([[HELLO]], WALKTHROUGH, params={}))
    assert many
    assert ask.messages == (HELLO,)
    assert (ask.temperature, ask.top_p, ask.max_new_tokens) == (0.6, 0.9, 200)


def test_a_flat_list_of_messages_is_one_conversation() -> None:
    (ask,), many = asks_from_score(score([HELLO, HI, HELLO]))
    assert not many
    assert ask.messages == (HELLO, HI, HELLO)


def test_several_conversations_are_several_asks() -> None:
    asks, many = asks_from_score(score([[HELLO], [HELLO, HI, HELLO]]))
    assert many
    assert [len(ask.messages) for ask in asks] == [1, 3]


def test_the_answer_is_made_to_the_last_user_turn() -> None:
    (ask,), _ = asks_from_score(score([[HELLO, HI, HELLO, HI]]))
    assert ask.messages == (HELLO, HI, HELLO)


def test_a_body_that_says_nothing_of_sampling_is_answered_greedily() -> None:
    (ask,), _ = asks_from_score(score([HELLO]))
    assert ask.temperature == 0.0
    assert ask.max_new_tokens == 256


def test_do_sample_false_is_greedy_whatever_the_temperature() -> None:
    (ask,), _ = asks_from_score(score([HELLO], {"temperature": 0.9, "do_sample": False}))
    assert ask.temperature == 0.0


def test_a_temperature_alone_asks_for_sampling() -> None:
    (ask,), _ = asks_from_score(score([HELLO], {"temperature": 0.9}))
    assert ask.temperature == 0.9


def test_params_stand_beside_the_parameters_of_the_input() -> None:
    (ask,), _ = asks_from_score(score([HELLO], {"max_new_tokens": 5}, params={"max_gen_len": 7}))
    assert ask.max_new_tokens == 7


@pytest.mark.parametrize("name", ["max_new_tokens", "max_gen_len", "max_tokens"])
def test_every_usual_name_of_the_length_is_taken(name: str) -> None:
    (ask,), _ = asks_from_score(score([HELLO], {name: 3}))
    assert ask.max_new_tokens == 3


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"input_data": "Hello"},
        {"input_data": {}},
        {"input_data": {"input_string": "Hello"}},
        {"input_data": {"input_string": []}},
        {"inputs": "Hello"},
    ],
)
def test_another_body_is_refused_with_an_example(body: Any) -> None:
    with pytest.raises(InputError, match=r'"input_string": \[\{"role": "user"'):
        asks_from_score(body)


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
        ([], "input_data.parameters"),
    ],
)
def test_a_wrong_parameter_is_named(parameters: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        asks_from_score(score([HELLO], parameters))


def test_every_fault_of_a_body_is_said_at_once() -> None:
    turns = [[{"role": "usr", "content": "Hello"}], [HI]]
    with pytest.raises(InputError) as told:
        asks_from_score(score(turns, {"top_p": 2, "max_new_tokens": 0}))
    places = [fault.where for fault in told.value.faults]
    assert "parameters.top_p" in places
    assert "parameters.max_new_tokens" in places
    assert "input_data.input_string[0][0].role" in places
    assert "input_data.input_string[1]" in places


def test_an_unknown_key_beside_the_input_is_not_left_out_in_silence() -> None:
    body = {"input_data": {"input_string": [HELLO], "columns": []}}
    with pytest.raises(InputError, match="columns"):
        asks_from_score(body)


def test_a_chat_body_has_openais_defaults() -> None:
    ask = ask_from_chat({"model": "m", "messages": [HELLO]})
    assert (ask.temperature, ask.top_p, ask.max_new_tokens) == (1.0, 1.0, None)


def test_a_chat_bodys_settings_are_taken() -> None:
    body = {"messages": [HELLO], "max_completion_tokens": 9, "seed": 4, "stop": "\n", "n": 1}
    ask = ask_from_chat(body | {"temperature": 0, "user": "me", "frequency_penalty": 0.0})
    assert (ask.max_new_tokens, ask.seed, ask.stop, ask.temperature) == (9, 4, ("\n",), 0.0)


def test_two_asks_without_a_seed_draw_differently() -> None:
    seeds = {ask_from_chat({"messages": [HELLO]}).seed for _ in range(8)}
    assert len(seeds) > 1


@pytest.mark.parametrize(
    "odd",
    [
        {"n": 2},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"presence_penalty": 1},
        {"tool_choice": "required"},
        {"nonsense": 1},
        {"stop": [""]},
        {"messages": []},
        {"messages": [HELLO, HI]},
        {"messages": [{"role": "system", "content": "Be brief."}]},
        {"messages": "Hello"},
    ],
)
def test_what_would_change_the_answer_and_is_not_here_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(odd))):
        ask_from_chat({"messages": [HELLO], **odd})

"""OpenAI's bodies: what is taken, what is ignored knowingly, what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from finery.errors import InputError
from finery.inference.protocol.asks import Ask
from finery.inference.protocol.openai_asks import read_chat, read_completion
from finery.inference.protocol.refusals import refusal_of

HELLO = {"role": "user", "content": "Hello"}
HI = {"role": "assistant", "content": "Hi!"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
TIME = {"type": "function", "function": {"name": "time"}}


def ask_of(**body: Any) -> Ask:
    (ask,) = read_chat({"messages": [HELLO], **body}).asks
    return ask


def test_a_chat_body_has_openais_defaults() -> None:
    ask = ask_of(model="m")
    assert (ask.temperature, ask.top_p, ask.max_new_tokens, ask.count) == (1.0, 1.0, None, 1)


def test_a_chat_bodys_settings_are_taken() -> None:
    ask = ask_of(
        max_completion_tokens=9,
        seed=4,
        stop="\n",
        n=2,
        temperature=0,
        frequency_penalty=0.5,
        presence_penalty=-1,
    )
    assert (ask.max_new_tokens, ask.seed, ask.stop, ask.temperature) == (9, 4, ("\n",), 0.0)
    assert (ask.count, ask.frequency_penalty, ask.presence_penalty) == (2, 0.5, -1.0)


def test_the_newer_name_of_the_length_goes_before_the_older() -> None:
    assert ask_of(max_tokens=5, max_completion_tokens=9).max_new_tokens == 9
    assert ask_of(max_tokens=5).max_new_tokens == 5


def test_null_is_as_if_it_was_not_there() -> None:
    ask = ask_of(max_tokens=None, stop=None, tools=None, tool_choice=None, response_format=None)
    assert (ask.max_new_tokens, ask.stop, ask.tools, ask.schema) == (None, (), None, None)


def test_who_asks_is_ignored_knowingly() -> None:
    asked = {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}
    assert ask_of(**asked, seed=1) == ask_of(seed=1)


def test_two_asks_without_a_seed_draw_differently() -> None:
    assert len({ask_of().seed for _ in range(8)}) > 1


def test_a_developers_message_is_a_systems() -> None:
    rules = {"role": "developer", "content": "Be brief."}
    assert ask_of(messages=[rules, HELLO]).messages[0] == {**rules, "role": "system"}


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert ask_of(messages=[{"role": "user", "content": parts}]).messages == (HELLO,)


def test_an_image_is_refused_by_its_place() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "http://a"}}]
    with pytest.raises(InputError, match=r"messages\[0\]\.content\[0\]"):
        ask_of(messages=[{"role": "user", "content": parts}])


def test_earlier_calls_reach_the_template_as_objects() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    turns = [HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}]
    ask = ask_of(messages=[*turns, {"role": "tool", "tool_call_id": "1", "content": "2"}])
    assert ask.messages[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}


def test_logprobs_and_their_number() -> None:
    assert ask_of().logprobs is None
    assert ask_of(logprobs=False).logprobs is None
    assert ask_of(logprobs=True).logprobs == 0
    assert ask_of(logprobs=True, top_logprobs=5).logprobs == 5


@pytest.mark.parametrize(
    ("given", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS}}, PARAMETERS),
    ],
)
def test_a_response_format_is_a_schema(given: Any, schema: Any) -> None:
    assert ask_of(response_format=given).schema == schema


def test_tools_are_offered_unless_the_choice_is_none() -> None:
    assert ask_of(tools=[WEATHER]).tools == (WEATHER,)
    assert ask_of(tools=[WEATHER], tool_choice="auto").calls
    assert not ask_of(tools=[WEATHER], tool_choice="none").calls
    assert ask_of(tools=[WEATHER], parallel_tool_calls=False).one_call


def test_a_forced_call_is_a_schema_of_one_of_the_tools() -> None:
    either = ask_of(tools=[WEATHER, TIME], tool_choice="required")
    assert either.forced
    assert [one["properties"]["name"]["const"] for one in (either.schema or {})["anyOf"]] == [
        "weather",
        "time",
    ]
    named = ask_of(
        tools=[WEATHER, TIME], tool_choice={"type": "function", "function": {"name": "weather"}}
    )
    assert named.schema is not None
    assert named.schema["properties"]["arguments"] == PARAMETERS


@pytest.mark.parametrize(
    "odd",
    [
        {"n": 0},
        {"n": 1000},
        {"n": True},
        {"logprobs": 3},
        {"top_logprobs": 5},
        {"top_logprobs": 21, "logprobs": True},
        {"logit_bias": {"50256": -100}},
        {"response_format": {"type": "xml"}},
        {"response_format": "json"},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        {"presence_penalty": 3},
        {"frequency_penalty": "much"},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "time"}}, "tools": [WEATHER]},
        {"tool_choice": 3, "tools": [WEATHER]},
        {"tools": [{"type": "web_search", "function": {"name": "x"}}]},
        {"tools": [3]},
        {"tools": "weather"},
        {"nonsense": 1},
        {"functions": []},
        {"modalities": ["audio"]},
        {"stop": [""]},
        {"stop": ["x"] * 17},
        {"stream_options": {"include_everything": True}},
        {"stream_options": 3},
        {"seed": 1.5},
        {"temperature": 1e400},
        {"messages": []},
        {"messages": [HELLO, HI]},
        {"messages": [{"role": "system", "content": "Be brief."}]},
        {"messages": "Hello"},
        {"messages": [3]},
    ],
)
def test_what_would_change_the_answer_and_is_not_here_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(odd))) as told:
        ask_of(**odd)
    param = refusal_of(told.value).param
    assert param is not None
    assert param.startswith(next(iter(odd)))


def test_a_schema_and_a_forced_call_exclude_each_other() -> None:
    with pytest.raises(InputError, match="response_format"):
        ask_of(response_format={"type": "json_object"}, tools=[TIME], tool_choice="required")


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("Once", ["Once"]),
        (["Once", "Twice"], ["Once", "Twice"]),
        ([1, 2], [(1, 2)]),
        ([[1, 2], [3]], [(1, 2), (3,)]),
    ],
)
def test_a_completion_takes_texts_and_ids(prompt: Any, prompts: list[Any]) -> None:
    asked = read_completion({"prompt": prompt})
    assert [ask.prompt for ask in asked.asks] == prompts
    assert {ask.max_new_tokens for ask in asked.asks} == {16}


def test_a_completions_settings_are_taken() -> None:
    asked = read_completion({"prompt": "a", "max_tokens": 0, "echo": True, "n": 2, "best_of": 1})
    assert (asked.echo, asked.asks[0].max_new_tokens, asked.asks[0].count) == (True, 0, 2)
    assert read_completion({"prompt": "a", "logprobs": 3}).asks[0].logprobs == 3


@pytest.mark.parametrize(
    "odd",
    [
        {"prompt": []},
        {"prompt": None},
        {"prompt": [1, "a"]},
        {"prompt": [True]},
        {"prompt": [-1]},
        {"prompt": [2**31]},
        {"prompt": {"a": 1}},
        {"prompt": ["a"] * 65},
        {"logprobs": 6},
        {"suffix": "end"},
        {"best_of": 3},
        {"echo": True, "logprobs": 1},
        {"messages": [HELLO]},
    ],
)
def test_a_wrong_completion_is_refused_by_name(odd: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(odd))):
        read_completion({"prompt": "a", **odd})


@pytest.mark.parametrize("body", [None, 3, "a", [], True])
@pytest.mark.parametrize("read", [read_chat, read_completion])
def test_a_body_that_is_no_object_is_refused(read: Any, body: Any) -> None:
    with pytest.raises(InputError, match="a JSON object"):
        read(body)

"""What the doors answer, beyond plain text: several answers, log-probabilities, tools, JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import OpenAI
from small_replica import END, Scripted, app_of, scripted
from starlette.testclient import TestClient

from finery.chat.render import make_renderer
from finery.inference.engines.stub import stub_renderer

RENDERER = stub_renderer()
HELLO: Any = [{"role": "user", "content": "Hello"}]
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
HERMES = (
    "{% if tools %}Tools: {{ tools | tojson }} call as <tool_call>{}</tool_call>{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def hermes_renderer() -> Any:
    tokenizer = stub_renderer().tokenizer
    tokenizer.chat_template = HERMES
    return make_renderer(tokenizer, "hermes")


def http_of(engine: Scripted) -> TestClient:
    return TestClient(app_of(engine, engine.renderer), base_url="http://replica")


def openai_of(engine: Scripted) -> OpenAI:
    http: Any = http_of(engine)
    return OpenAI(api_key="x", base_url="http://replica/v1", http_client=http, max_retries=0)


def test_several_answers_are_several_choices_and_the_prompt_counts_once() -> None:
    engine = scripted(f"one{END}", f"three{END}")
    client = openai_of(engine)
    made = client.chat.completions.create(model="demo", messages=HELLO, n=2, seed=1)
    assert [choice.message.content for choice in made.choices] == ["one", "three"]
    assert [choice.index for choice in made.choices] == [0, 1]
    assert made.usage is not None
    assert made.usage.completion_tokens == len("one") + len("three") + 2
    assert made.usage.prompt_tokens == len(RENDERER.prompt(HELLO))


def test_several_answers_stream_side_by_side() -> None:
    client = openai_of(scripted(f"one{END}", f"three{END}"))
    texts, reasons = {0: "", 1: ""}, {}
    stream = client.chat.completions.create(model="demo", messages=HELLO, n=2, stream=True)
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert texts == {0: "one", 1: "three"}
    assert reasons == {0: "stop", 1: "stop"}


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_join_to_the_answer(stream: bool) -> None:
    client = openai_of(scripted(f"né!{END}"))
    asked: Any = {"logprobs": True, "top_logprobs": 2, "stream": stream}
    made: Any = client.chat.completions.create(model="demo", messages=HELLO, **asked)
    choices = [chunk.choices[0] for chunk in made] if stream else [made.choices[0]]
    content = [one for choice in choices if choice.logprobs for one in choice.logprobs.content]
    data = bytes(byte for one in content for byte in one.bytes)
    assert data.decode() == "né!"
    assert [one.logprob for one in content] == [-0.5] * 4
    assert all(len(one.top_logprobs) == 2 for one in content)


@pytest.mark.parametrize("stream", [False, True])
def test_completions_have_log_probabilities_and_offsets(stream: bool) -> None:
    client = openai_of(scripted("abX"))
    asked: Any = {"max_tokens": 3, "logprobs": 1, "stop": "X", "stream": stream}
    made: Any = client.completions.create(model="demo", prompt="p", **asked)
    choices = [chunk.choices[0] for chunk in made] if stream else [made.choices[0]]
    assert "".join(choice.text for choice in choices) == "ab"
    told = [choice.logprobs for choice in choices if choice.logprobs]
    assert [token for one in told for token in one.tokens] == ["a", "b"]
    assert [place for one in told for place in one.text_offset] == [0, 1]
    assert [top for one in told for top in one.top_logprobs] == [{"a": -0.5}, {"b": -0.5}]
    assert [c.finish_reason for c in choices if c.finish_reason] == ["stop"]


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_are_completed_and_echoed(stream: bool) -> None:
    client = openai_of(scripted("x", "y", "z", "w"))
    asked: Any = {"prompt": ["a: ", "b: "], "n": 2, "echo": True, "max_tokens": 1}
    made: Any = client.completions.create(model="demo", stream=stream, **asked)
    chunks = list(made) if stream else [made]
    texts = dict.fromkeys(range(4), "")
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {0: "a: x", 1: "a: y", 2: "b: z", 3: "b: w"}


def test_ids_are_a_prompt_and_echoed_as_text() -> None:
    ids: Any = RENDERER.tokenizer("ab", add_special_tokens=False)["input_ids"]
    engine = scripted("c")
    made = openai_of(engine).completions.create(model="demo", prompt=ids, echo=True, max_tokens=1)
    assert made.choices[0].text == "abc"
    assert engine.wanted[0].prompt == tuple(ids)


@pytest.mark.parametrize("path", ["/v1/completions", "/completions"])
def test_no_tokens_may_be_wanted(path: str) -> None:
    made = http_of(scripted("c")).post(path, json={"prompt": "a", "max_tokens": 0}).json()
    assert made["choices"][0] == {
        "index": 0,
        "text": "",
        "logprobs": None,
        "finish_reason": "length",
    }
    assert made["usage"]["completion_tokens"] == 0


def test_every_stream_of_azure_ai_ends_with_its_usage() -> None:
    response = http_of(scripted(f"ab{END}")).post(
        "/chat/completions", json={"messages": HELLO, "stream": True}
    )
    events = [line for line in response.text.split("\n") if line.startswith("data: {")]
    assert json.loads(events[-1].removeprefix("data: "))["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize(
    "given",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}},
    ],
)
def test_json_mode_is_the_engines_schema(given: Any) -> None:
    engine = scripted(f'{{"a": 1}}{END}')
    made = openai_of(engine).chat.completions.create(
        model="demo", messages=HELLO, response_format=given
    )
    assert json.loads(made.choices[0].message.content or "") == {"a": 1}
    schema = given.get("json_schema", {}).get("schema", {"type": "object"})
    assert engine.wanted[0].schema == schema


def test_json_mode_without_an_engine_for_it_is_refused_by_name() -> None:
    response = http_of(scripted("a", features=frozenset())).post(
        "/v1/chat/completions",
        json={"messages": HELLO, "response_format": {"type": "json_object"}},
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "response_format"


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_of_a_tool_is_a_call_and_no_text(stream: bool) -> None:
    engine = Scripted(hermes_renderer(), f"I look. {CALL}{END}")
    made: Any = openai_of(engine).chat.completions.create(
        model="demo", messages=HELLO, tools=[TOOL], stream=stream
    )
    if stream:
        choices = [chunk.choices[0] for chunk in made]
        text = "".join(choice.delta.content or "" for choice in choices)
        calls = [call for choice in choices for call in choice.delta.tool_calls or ()]
        reason = choices[-1].finish_reason
    else:
        message = made.choices[0].message
        text, calls, reason = message.content, message.tool_calls, made.choices[0].finish_reason
    assert text == "I look. "
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("weather", {"city": "Oslo"})
    ]
    assert reason == "tool_calls"
    assert b"weather" in bytes(engine.renderer.decode(engine.wanted[0].prompt), "utf-8")


def test_a_call_cut_short_is_text_of_too_great_a_length() -> None:
    engine = Scripted(hermes_renderer(), CALL)
    made = openai_of(engine).chat.completions.create(
        model="demo", messages=HELLO, tools=[TOOL], max_tokens=20
    )
    assert made.choices[0].message.content == CALL[:20]
    assert made.choices[0].finish_reason == "length"


def test_a_conversation_goes_on_after_a_tool_answered() -> None:
    engine = Scripted(hermes_renderer(), f"{CALL}{END}", f"Rain.{END}")
    client = openai_of(engine)
    first = client.chat.completions.create(model="demo", messages=HELLO, tools=[TOOL])
    message = first.choices[0].message
    assert message.tool_calls is not None
    answer = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
    turns: Any = [*HELLO, message.model_dump(exclude_none=True), answer]
    second = client.chat.completions.create(model="demo", messages=turns, tools=[TOOL])
    assert second.choices[0].message.content == "Rain."
    prompt = engine.renderer.decode(engine.wanted[1].prompt)
    assert '"arguments": {"city": "Oslo"}' in prompt, "as an object, not as quoted text"


def test_a_forced_call_is_made_under_a_schema() -> None:
    call = '{"name": "weather", "arguments": {"city": "Oslo"}}'
    engine = Scripted(hermes_renderer(), f"{call}{END}")
    made = openai_of(engine).chat.completions.create(
        model="demo", messages=HELLO, tools=[TOOL], tool_choice="required"
    )
    calls: Any = made.choices[0].message.tool_calls
    assert calls[0].function.name == "weather"
    assert made.choices[0].finish_reason == "tool_calls"
    assert engine.wanted[0].schema is not None


def test_tools_that_the_template_does_not_show_are_refused() -> None:
    response = http_of(scripted("a")).post(
        "/v1/chat/completions", json={"messages": HELLO, "tools": [TOOL]}
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools"
    assert "template" in response.json()["error"]["message"]


def test_plain_text_is_plain_text_though_tools_are_there() -> None:
    engine = Scripted(hermes_renderer(), f"No need <tool>.{END}")
    made = openai_of(engine).chat.completions.create(model="demo", messages=HELLO, tools=[TOOL])
    assert made.choices[0].message.content == "No need <tool>."
    assert made.choices[0].finish_reason == "stop"

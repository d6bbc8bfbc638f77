"""Calls of tools in a model's answer: found in each family's writing, whole and in pieces."""

from __future__ import annotations

import json

import pytest

from finery.inference.protocol.tool_calls import CallReader, ToolCall, family_of

HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
LLAMA = '{"name": "weather", "parameters": {"city": "Oslo"}}'
PHI = '<|tool_call|>[{"name": "weather", "arguments": {"city": "Oslo"}}]<|/tool_call|>'
FUNCTOOLS = 'functools[{"name": "weather", "arguments": {"city": "Oslo"}}]'
LIST = '[{"name": "weather", "arguments": {"city": "Oslo"}}]'
FORCED = '{"name": "weather", "arguments": {"city": "Oslo"}}'
CALL = ToolCall("weather", '{"city": "Oslo"}')
WRITINGS = [
    ("hermes", HERMES),
    ("llama", LLAMA),
    ("phi", PHI),
    ("phi", FUNCTOOLS),
    ("list", LIST),
    ("forced", FORCED),
]


def read(family: str, *parts: str, one: bool = False) -> tuple[str, list[ToolCall]]:
    reader = CallReader(family, ("weather", "time"), one=one)
    text = "".join(reader.push(part) for part in parts)
    rest, calls = reader.finish()
    return text + rest, calls


@pytest.mark.parametrize(("family", "text"), WRITINGS)
@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_call_is_found_however_it_comes(family: str, text: str, size: int) -> None:
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    assert read(family, *parts) == ("", [CALL])


def test_text_before_a_call_is_passed_on_and_is_the_same_in_pieces() -> None:
    whole = f"Let me see. <tool {HERMES}"
    assert read("hermes", whole) == ("Let me see. <tool ", [CALL])
    assert read("hermes", *whole) == ("Let me see. <tool ", [CALL])


def test_text_is_not_held_back_longer_than_it_may_begin_a_call() -> None:
    reader = CallReader("hermes", ("weather",))
    assert reader.push("a < b and <tool") == "a < b and "
    assert reader.push("box>") == "<toolbox>"


def test_several_calls_and_what_stands_around_them() -> None:
    calls = [CALL, CALL]
    assert read("hermes", f"{HERMES}\n{HERMES} so") == ("so", calls)
    assert read("llama", f"{LLAMA}; {LLAMA}") == ("", calls)
    assert read("list", json.dumps([json.loads(LIST)[0]] * 2)) == ("", calls)


def test_at_most_one_call_where_the_client_takes_one() -> None:
    assert read("hermes", HERMES + HERMES, one=True) == ("", [CALL])


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("hermes", '<tool_call>{"name": "weather", "argum'),
        ("hermes", "<tool_call>weather</tool_call>"),
        ("hermes", f"{HERMES}<tool_call>oops</tool_call>"),
        ("llama", '{"temperature": 3}'),
        ("llama", '{"name": "unknown", "parameters": {}}'),
        ("llama", "I would call weather."),
        ("llama", "  "),
        ("list", "[1, 2]"),
        ("phi", "functools[oops]"),
        ("forced", '{"name": "wea'),
        ("", HERMES),
    ],
)
def test_what_is_no_whole_call_stays_the_answers_text(family: str, text: str) -> None:
    assert read(family, text) == (text, [])
    assert read(family, *text) == (text, [])


def test_arguments_may_be_text_already() -> None:
    text = '<tool_call>{"name": "weather", "arguments": "{}"}</tool_call>'
    assert read("hermes", text) == ("", [ToolCall("weather", "{}")])


def test_a_call_has_openais_shape_and_an_id_of_its_own() -> None:
    first, second = CALL.shape(), CALL.shape()
    assert first["type"] == "function"
    assert first["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert first["id"] != second["id"]


@pytest.mark.parametrize(
    ("template", "family"),
    [
        ("… <tool_call>{{ call | tojson }}</tool_call>", "hermes"),
        ('Environment: ipython … {"name": …, "parameters": …}', "llama"),
        ("<|tool|>{{ tools }}<|/tool|>", "phi"),
        ("[TOOL_CALLS]{{ calls }}", "list"),
        ("{{ messages }}", ""),
    ],
)
def test_the_template_says_how_calls_are_written(template: str, family: str) -> None:
    assert family_of(template) == family

"""Bodies nobody meant to send: every one is answered or refused, none is a fault of ours."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from small_replica import END, app_of, scripted
from starlette.testclient import TestClient

from finery.chat.render import Renderer, make_renderer
from finery.inference.engines.stub import stub_renderer
from finery.inference.protocol import azure_ai, openai_asks
from finery.inference.protocol.azure_ml import SCORE
from finery.inference.protocol.reading import ROUTES

HELLO = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOLS = (
    "{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}{% for m in messages %}<|im_start|>"
    "{{ m['role'] }}\n{{ m['content'] }}{{ (m.tool_calls or []) | tojson }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 1e308, -0.5, 2**31, 2**63, -(2**70), 10**400, ""),
    *("a", "\ud800", "\x00", "<|im_end|>", "none", "auto", "required", "text", "é" * 300),
    *([], [[]], [None], ["a"], [1], [True], [[1]], [["a"]], {}, {"a": 1}, {"type": "text"}),
    *(HELLO, [HELLO], [[HELLO]], TOOL, [TOOL], [CALL], {"type": "json_object"}),
    *({"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}, {"include_usage": True}),
    [HELLO, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "x"}],
    {"type": "function", "function": {"name": "f"}},
    {"input_string": [HELLO], "parameters": {}},
)
KEYS = {
    "/v1/chat/completions": openai_asks.CHAT,
    "/v1/completions": openai_asks.COMPLETION,
    "/chat/completions": azure_ai.CHAT,
    "/completions": azure_ai.COMPLETION,
    "/score": ("input_data", "params", "parameters", "input_string", *SCORE),
}
FOUND = {
    "/v1/chat/completions": {"messages": [HELLO]},
    "/v1/completions": {"prompt": "a"},
    "/chat/completions": {"messages": [HELLO]},
    "/completions": {"prompt": "a"},
    "/score": {"input_data": {"input_string": [HELLO]}},
}


def renderer_with_tools() -> Renderer:
    tokenizer = stub_renderer().tokenizer
    tokenizer.chat_template = TOOLS
    return make_renderer(tokenizer, "tools")


def mutated(draw: random.Random, value: Any, keys: tuple[str, ...], depth: int = 0) -> Any:
    """The value with some of its parts replaced, added or taken out, at any depth."""
    if draw.random() < 0.12 or depth > 5:
        return draw.choice(VALUES)
    if isinstance(value, dict):
        changed = {
            name: mutated(draw, inner, keys, depth + 1)
            for name, inner in value.items()
            if draw.random() > 0.03
        }
        for _ in range(draw.randrange(3)):
            name = draw.choice([*keys, "odd", "role", "content", "tool_calls", "name"])
            changed[name] = draw.choice(VALUES)
        return changed
    if isinstance(value, list):
        return [mutated(draw, inner, keys, depth + 1) for inner in value]
    return value


@pytest.mark.parametrize("path", ROUTES)
def test_no_body_is_a_fault_of_the_server(path: str, caplog: pytest.LogCaptureFixture) -> None:
    client = TestClient(app_of(scripted(f"ab<tool_call>{END}"), renderer_with_tools()))
    draw = random.Random(path)  # noqa: S311
    modes = ({}, {"extra-parameters": "pass-through"}, {"extra-parameters": "drop"})
    statuses = []
    for _ in range(600):
        body = mutated(draw, FOUND[path], tuple(KEYS[path]))
        response = client.post(path, content=json.dumps(body), headers=draw.choice(modes))
        statuses.append(response.status_code)
        assert response.status_code in (200, 400, 404, 422), (body, response.text)
        if response.status_code >= 400:
            assert response.json()["error"]["message"]
        elif "data: " not in response.text:
            response.json()
    assert "Traceback" not in caplog.text
    assert {200, 400} <= {400 if status == 422 else status for status in statuses}


@pytest.mark.parametrize("path", ROUTES)
def test_no_bytes_are_a_fault_of_the_server(path: str) -> None:
    client = TestClient(app_of(scripted(END), stub_renderer()))
    draw, whole = random.Random(1), json.dumps(FOUND[path]).encode()  # noqa: S311
    for _ in range(300):
        body = bytearray(whole)
        for _ in range(draw.randrange(4)):
            body[draw.randrange(len(body))] = draw.randrange(256)
        sent = bytes(body[: draw.randrange(len(body) + 1)])
        response = client.post(path, content=sent)
        assert response.status_code in (200, 400, 404, 422), (sent, response.text)

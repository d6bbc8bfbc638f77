"""A replica over HTTP, with a whole (tiny) model behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plain_engine import PlainEngine
from small_replica import app_of
from starlette.testclient import TestClient

from finery.inference.generate import generate
from finery.inference.open import Opened, open_model

HELLO = [{"role": "user", "content": "the cat ran"}]


@pytest.fixture(scope="module")
def opened(tiny_llama: Path) -> Opened:
    return open_model(str(tiny_llama), device="cpu")


def engine_of(opened: Opened) -> PlainEngine:
    return PlainEngine(opened.model, opened.renderer.pad_id)


@pytest.fixture
def client(opened: Opened) -> Iterator[TestClient]:
    with TestClient(app_of(engine_of(opened), opened.renderer)) as client:
        yield client


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": HELLO, "temperature": 0, "max_tokens": 8, **more}


def events(text: str) -> list[Any]:
    lines = [line for line in text.split("\n") if line]
    assert lines[-1].startswith(": usage prompt=")
    assert lines[-2] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def test_a_replica_says_that_it_is_healthy_and_what_it_serves(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "healthy", "model": "demo"}
    assert client.get("/").json() == {"status": "healthy", "model": "demo"}
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["demo"]
    assert client.get("/v1/models/demo").json()["object"] == "model"
    assert client.get("/info").json()["model_name"] == "demo"


def test_a_chat_answer_is_that_of_the_engine(client: TestClient, opened: Opened) -> None:
    (expected,) = generate(opened.model, opened.renderer, [HELLO], max_new_tokens=8)
    body = client.post("/v1/chat/completions", json=chat()).json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": expected.text}
    assert body["choices"][0]["finish_reason"] == expected.finish_reason
    assert body["usage"]["completion_tokens"] == expected.new_tokens
    assert body["usage"]["prompt_tokens"] == expected.prompt_tokens


def test_a_streamed_answer_is_the_same_text_in_pieces(client: TestClient) -> None:
    whole = client.post("/v1/chat/completions", json=chat()).json()
    response = client.post(
        "/v1/chat/completions", json=chat(stream=True, stream_options={"include_usage": True})
    )
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, last, usage = events(response.text)
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    assert last["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert usage["usage"] == whole["usage"]
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_usage_is_streamed_only_when_it_is_asked_for(client: TestClient) -> None:
    response = client.post("/v1/chat/completions", json=chat(stream=True))
    assert all("usage" not in event for event in events(response.text))


def test_the_gateway_learns_the_tokens_of_every_answer(client: TestClient) -> None:
    whole = client.post("/v1/chat/completions", json=chat())
    usage = whole.json()["usage"]
    assert whole.headers["x-finery-prompt-tokens"] == str(usage["prompt_tokens"])
    assert whole.headers["x-finery-completion-tokens"] == str(usage["completion_tokens"])
    stream = client.post("/v1/chat/completions", json=chat(stream=True))
    told = f": usage prompt={usage['prompt_tokens']} completion={usage['completion_tokens']}"
    assert stream.text.endswith(f"data: [DONE]\n\n{told}\n\n")


def test_an_answer_ends_before_a_stop_text(client: TestClient) -> None:
    whole = client.post("/v1/chat/completions", json=chat()).json()["choices"][0]
    stop = whole["message"]["content"][3]
    cut = client.post("/v1/chat/completions", json=chat(stop=[stop])).json()["choices"][0]
    assert cut["message"]["content"] == whole["message"]["content"].partition(stop)[0]
    assert cut["finish_reason"] == "stop"


def test_the_same_seed_draws_the_same_answer(client: TestClient) -> None:
    def drawn(seed: int) -> str:
        body = chat(temperature=1.0, seed=seed, max_tokens=16)
        return client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"][
            "content"
        ]

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 1


def test_every_door_gives_the_same_answer(client: TestClient) -> None:
    settings = {"temperature": 0.8, "top_p": 0.9, "seed": 5}
    body = {"messages": HELLO, "max_tokens": 12, **settings}
    openai = client.post("/v1/chat/completions", json=body).json()
    azure = client.post("/chat/completions", json=body).json()
    parameters = {"max_new_tokens": 12, **settings}
    score = {"input_data": {"input_string": HELLO, "parameters": parameters}}
    scored = client.post("/score", json=score).json()["output"]
    assert openai["choices"] == azure["choices"]
    assert openai["usage"] == azure["usage"]
    assert scored == openai["choices"][0]["message"]["content"] != ""


def test_one_conversation_scored_gives_one_object(client: TestClient) -> None:
    body = {"input_data": {"input_string": HELLO, "parameters": {"max_new_tokens": 4}}}
    assert set(client.post("/score", json=body).json()) == {"output"}


def test_a_list_of_conversations_scored_gives_a_list(client: TestClient) -> None:
    body = {"input_data": {"input_string": [HELLO, HELLO], "parameters": {"max_new_tokens": 4}}}
    rows = client.post("/score", json=body).json()
    assert [set(row) for row in rows] == [{"output"}, {"output"}]
    assert rows[0] == rows[1]


def test_prompts_scored_give_one_list_of_texts(client: TestClient) -> None:
    body = {"input_data": ["the cat", "a dog"], "params": {"max_new_tokens": 4}}
    output = client.post("/score", json=body).json()["output"]
    prompts = {"prompt": ["the cat", "a dog"], "max_tokens": 4, "temperature": 0}
    plain = client.post("/v1/completions", json=prompts).json()["choices"]
    assert output == [choice["text"] for choice in plain]


@pytest.mark.parametrize(
    ("path", "content", "told"),
    [
        ("/score", b"{", "not JSON"),
        ("/score", b"\xff", "not JSON"),
        ("/score", b"{}", "input_string"),
        ("/score", b'{"input_data": NaN}', "not JSON"),
        ("/v1/chat/completions", b"[]", "JSON object"),
        ("/v1/chat/completions", b'{"messages": []}', "messages"),
        ("/v1/chat/completions", b"[" * 100_000, "nested too deeply"),
        ("/v1/chat/completions", b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested too deeply"),
        (
            "/v1/chat/completions",
            b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
            "surrogate",
        ),
        ("/v1/completions", b'{"prompt": [999999]}', "vocabulary"),
    ],
)
def test_a_wrong_request_is_a_400_that_says_why(
    client: TestClient, path: str, content: bytes, told: str
) -> None:
    response = client.post(path, content=content)
    assert response.status_code == 400
    assert told in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_beyond_the_context_is_a_400_before_any_answer(
    client: TestClient, stream: bool
) -> None:
    long = [{"role": "user", "content": "a " * 2000}]
    response = client.post("/v1/chat/completions", json=chat(messages=long, stream=stream))
    assert response.status_code == 400
    assert "context" in response.json()["error"]["message"]
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert response.json()["error"]["param"] == "messages"


def test_special_tokens_in_a_message_are_refused(client: TestClient) -> None:
    forged = [{"role": "user", "content": "Hi<|im_end|>"}]
    response = client.post("/v1/chat/completions", json=chat(messages=forged))
    assert response.status_code == 400
    assert "<|im_end|>" in response.json()["error"]["message"]


def test_another_model_is_a_404_that_names_the_one_there_is(client: TestClient) -> None:
    response = client.post("/v1/chat/completions", json=chat(model="gpt-4"))
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert response.json()["error"]["param"] == "model"
    assert "demo" in response.json()["error"]["message"]
    assert client.get("/v1/models/gpt-4").status_code == 404


def test_behind_a_gateway_the_header_says_what_the_model_is_called(client: TestClient) -> None:
    headers = {"x-finery-model": "shop"}
    response = client.post("/v1/chat/completions", json=chat(model="blue"), headers=headers)
    assert response.json()["model"] == "shop"


def test_answers_made_at_the_same_time_are_those_made_alone(opened: Opened) -> None:
    import httpx

    prompts = [[{"role": "user", "content": text}] for text in ("the cat", "a dog ran home", "x")]
    alone = [
        generate(opened.model, opened.renderer, [prompt], max_new_tokens=24)[0].text
        for prompt in prompts
    ]

    async def together() -> list[str]:
        app = app_of(engine_of(opened), opened.renderer)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
            bodies = [chat(messages=prompt, max_tokens=24) for prompt in prompts]
            asked = (client.post("/v1/chat/completions", json=body) for body in bodies)
            answers = await asyncio.gather(*asked)
        return [answer.json()["choices"][0]["message"]["content"] for answer in answers]

    assert asyncio.run(together()) == alone

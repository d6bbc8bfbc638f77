"""A replica on a small real model: one answer through every door, with the unmodified client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from finery.chat.render import Renderer, load_renderer

HELLO: Any = [{"role": "user", "content": "Tell me a story about a cat."}]
CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Served:
    """A replica that answers."""

    http: httpx.Client
    openai: OpenAI
    renderer: Renderer
    note: dict[str, Any]

    def chat(self, **body: Any) -> dict[str, Any]:
        response = self.http.post(CHAT, json={"messages": HELLO, **body})
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture(scope="module")
def served(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """stories15m-phi3, a Phi-3 of 15 M weights that writes children's stories."""
    model = kit / "model" / "stories15m-phi3"
    ready = tmp_path_factory.mktemp("replica") / "ready.json"
    command = [sys.executable, "-P", "-m", "finery.inference.server", str(model)]
    settings = {"FINERY_REPLICA_KEY": "secret", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--name", "stories", "--ready", str(ready), "--device", "cpu"],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            end = time.monotonic() + 300
            while not ready.exists():
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < end
                time.sleep(0.1)
            note = json.loads(ready.read_text())
            url = f"http://127.0.0.1:{note['port']}"
            key = {"authorization": "Bearer secret"}
            with httpx.Client(base_url=url, headers=key, timeout=120, trust_env=False) as http:
                client = OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0)
                yield Served(http, client, load_renderer(model), note)
        finally:
            process.kill()


def test_the_note_says_what_answers(served: Served) -> None:
    assert served.note["engine"] == "torch"
    assert served.note["proof"]
    info = served.http.get("/info").json()
    assert (info["engine"], info["context"]) == ("torch", served.note["context"])


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0, "max_tokens": 40},
        {"temperature": 0.9, "top_p": 0.9, "seed": 11, "max_tokens": 40},
        {"temperature": 1, "seed": 3, "max_tokens": 60, "stop": [" was"]},
    ],
)
def test_every_door_gives_the_same_tokens_streamed_and_not(
    served: Served, settings: dict[str, Any]
) -> None:
    whole = served.chat(**settings)
    text = whole["choices"][0]["message"]["content"]
    azure = served.http.post("/chat/completions", json={"messages": HELLO, **settings}).json()
    parameters = {**settings, "max_new_tokens": settings["max_tokens"]}
    del parameters["max_tokens"]
    scores = [
        {"input_data": {"input_string": HELLO, "parameters": parameters}},
        {"input_data": {"input_string": [HELLO]}, "params": parameters},
    ]
    one, many = (served.http.post("/score", json=score).json() for score in scores)
    prompt = served.renderer.prompt(HELLO)
    plain = served.http.post("/v1/completions", json={"prompt": prompt, **settings}).json()
    stream = served.openai.chat.completions.create(
        model="stories",
        messages=HELLO,
        stream=True,
        stream_options={"include_usage": True},
        **settings,
    )
    chunks = list(stream)
    pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    texts = [
        azure["choices"][0]["message"]["content"],
        one["output"],
        many[0]["output"],
        plain["choices"][0]["text"],
        "".join(pieces),
    ]
    assert text.strip()
    assert texts == [text] * 5
    usage = whole["usage"]
    assert usage["prompt_tokens"] == len(prompt)
    assert azure["usage"] == plain["usage"] == usage
    last: Any = chunks[-1].usage
    assert last.model_dump(exclude_none=True) == usage
    reasons = {whole["choices"][0]["finish_reason"], azure["choices"][0]["finish_reason"]}
    reasons |= {c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason}
    assert len(reasons) == 1


def test_the_length_ends_an_answer_and_every_token_counts(served: Served) -> None:
    made = served.chat(temperature=0, max_tokens=7)
    assert made["choices"][0]["finish_reason"] == "length"
    assert made["usage"]["completion_tokens"] == 7


def test_the_context_ends_an_answer(served: Served) -> None:
    context = served.note["context"]
    prompt = [9] * (context - 5)
    made = served.openai.completions.create(
        model="stories", prompt=prompt, max_tokens=100, extra_body={"ignore_eos": True}
    )
    assert made.choices[0].finish_reason == "length"
    assert made.usage is not None
    assert made.usage.completion_tokens == 5
    with pytest.raises(openai.BadRequestError) as told:
        served.openai.completions.create(model="stories", prompt=[9] * context, max_tokens=1)
    assert told.value.code == "context_length_exceeded"


def test_a_stop_text_ends_an_answer_before_it(served: Served) -> None:
    whole = served.chat(temperature=0, max_tokens=60)["choices"][0]["message"]["content"]
    stop = whole[10:14]
    cut = served.chat(temperature=0, max_tokens=60, stop=[stop])
    assert cut["choices"][0]["message"]["content"] == whole[: whole.index(stop)]
    assert cut["choices"][0]["finish_reason"] == "stop"
    assert cut["usage"]["completion_tokens"] < 60


def test_log_probabilities_are_of_the_tokens_made(served: Served) -> None:
    made = served.openai.chat.completions.create(
        model="stories",
        messages=HELLO,
        temperature=0,
        max_tokens=12,
        logprobs=True,
        top_logprobs=3,
    )
    assert made.choices[0].logprobs is not None
    content = made.choices[0].logprobs.content or []
    data = bytes(byte for token in content for byte in token.bytes or [])
    assert data.decode() == made.choices[0].message.content
    for token in content:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token, "greedy takes the likeliest"
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)
        assert token.logprob <= 0


def test_several_answers_differ_and_are_the_same_again(served: Served) -> None:
    asked = {"temperature": 1.0, "seed": 5, "n": 3, "max_tokens": 24}
    first, second = served.chat(**asked), served.chat(**asked)
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert len(set(texts)) == 3
    assert texts == [choice["message"]["content"] for choice in second["choices"]]
    alone = served.chat(**{**asked, "n": 1})
    assert alone["choices"][0]["message"]["content"] == texts[0]
    assert first["usage"]["completion_tokens"] <= 3 * 24


def test_json_mode_gives_json_of_the_schema(served: Served) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["n"],
        "additionalProperties": False,
    }
    response = served.openai.chat.completions.create(
        model="stories",
        messages=HELLO,
        temperature=0,
        max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert response.choices[0].finish_reason == "stop"
    value = json.loads(response.choices[0].message.content or "")
    assert set(value) == {"n"}
    assert value["n"] in range(10)


def test_the_models_are_listed_and_errors_are_read(served: Served) -> None:
    assert [model.id for model in served.openai.models.list()] == ["stories"]
    assert served.openai.models.retrieve("stories").id == "stories"
    with pytest.raises(openai.NotFoundError):
        served.openai.models.retrieve("gpt-4")
    with pytest.raises(openai.BadRequestError) as told:
        served.openai.chat.completions.create(
            model="stories", messages=HELLO, logit_bias={"50256": -100}
        )
    assert told.value.param == "logit_bias"
    with pytest.raises(openai.AuthenticationError):
        served.openai.with_options(api_key="wrong").models.list()


def test_a_client_who_leaves_stops_the_engine(served: Served) -> None:
    def counted(name: str) -> float:
        lines = served.http.get("/metrics").text.splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(name)))

    stream = served.openai.chat.completions.create(
        model="stories",
        messages=HELLO,
        stream=True,
        extra_body={"ignore_eos": True},
        temperature=0,
    )
    for _, _ in zip(stream, range(3), strict=False):
        pass
    stream.close()
    end = time.monotonic() + 30
    while counted("finery_answers_running"):
        assert time.monotonic() < end
        time.sleep(0.01)
    made = counted("finery_completion_tokens_total")
    time.sleep(0.2)
    assert counted("finery_completion_tokens_total") == made

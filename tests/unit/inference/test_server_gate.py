"""What every request to a replica passes: key, id, log line, limits, and how errors look."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI
from small_replica import END, Scripted, app_of, replica_of, scripted
from starlette.requests import Request
from starlette.testclient import TestClient

from finery.chat.render import make_renderer
from finery.errors import FineryError
from finery.inference.engine import EngineLostError
from finery.inference.engines.stub import stub_renderer
from finery.inference.server_app import create_app
from finery.inference.server_readers import OwnReader
from finery.inference.server_stream import MOST_BODY, MOST_DROPPED, body_of

RENDERER = stub_renderer()
HELLO = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"
ROUTES = (CHAT, "/v1/completions", "/chat/completions", "/completions", "/score")


def client_of(engine: Scripted, key: str = "") -> TestClient:
    return TestClient(app_of(engine, RENDERER, key))


def body_for(path: str) -> dict[str, Any]:
    if path == "/score":
        return {"input_data": {"input_string": HELLO}}
    return {"messages": HELLO} if "chat" in path else {"prompt": "a"}


@pytest.mark.parametrize(
    "path", ["/", "/health", "/v1/models", "/info", "/swagger.json", "/metrics"]
)
def test_a_replica_with_a_key_answers_nobody_without_it(path: str) -> None:
    client = client_of(scripted("a"), "secret")
    assert client.get(path).status_code == 401
    assert client.get(path, headers={"authorization": "Bearer secrets"}).status_code == 401
    assert client.get(path, headers={"authorization": "Bearer secret"}).status_code == 200


@pytest.mark.parametrize("path", [*ROUTES, "/adapters", "/nothing"])
@pytest.mark.parametrize("given", ["", "Bearer ", "Bearer x", "secret\xe9", "Basic secret"])
def test_no_route_is_open_to_a_wrong_key(path: str, given: str) -> None:
    client = client_of(scripted("a"), "secret")
    headers = {"authorization": given.encode("latin-1")} if given else {}
    assert client.post(path, json={}, headers=headers).status_code == 401  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("POST", "/score/", 404), ("GET", "/score", 405), ("PUT", "/", 405)],
)
def test_another_route_is_an_error_in_the_usual_shape(method: str, path: str, status: int) -> None:
    response = client_of(scripted("a")).request(method, path, follow_redirects=False)
    assert response.status_code == status
    assert path in response.json()["error"]["message"]


def test_a_request_keeps_its_id_and_the_log_names_it(caplog: pytest.LogCaptureFixture) -> None:
    client = client_of(scripted(f"secret words{END}"))
    with caplog.at_level(logging.INFO, "finery.replica"):
        response = client.post(CHAT, json={"messages": HELLO}, headers={"x-request-id": "abc-1"})
    assert response.headers["x-request-id"] == "abc-1"
    (line,) = caplog.messages
    assert line.startswith(f"POST {CHAT} 200 ")
    prompt = response.json()["usage"]["prompt_tokens"]
    assert line.endswith(f"id=abc-1 prompt={prompt} completion=13")
    assert "Hello" not in line
    assert "words" not in line, "what people write is not logged"


@pytest.mark.parametrize("given", ["", "two words", "a" * 200, "x;y"])
def test_an_id_that_is_none_is_replaced(given: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "finery.replica"):
        response = client_of(scripted("a")).get("/info", headers={"x-request-id": given})
    assert len(response.headers["x-request-id"]) == 32
    assert response.headers["x-request-id"] in caplog.text


def test_a_stream_is_logged_with_its_tokens_once_it_ended(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "finery.replica"):
        client_of(scripted(f"abc{END}")).post(CHAT, json={"messages": HELLO, "stream": True})
    assert "completion=4" in caplog.text


@pytest.mark.parametrize("path", ROUTES)
def test_a_body_beyond_the_limit_is_a_413(path: str) -> None:
    client = client_of(scripted("a"))

    def chunks(size: int) -> Iterator[bytes]:
        for _ in range(0, size, 1 << 20):
            yield b"x" * (1 << 20)

    told = client.post(path, content=b"x" * (MOST_BODY + 1))
    assert told.status_code == 413
    assert "16 MiB" in told.json()["error"]["message"]
    assert client.post(path, content=chunks(MOST_BODY + 1)).status_code == 413
    assert client.post(path, content=chunks(MOST_BODY)).status_code in (400, 422), "not JSON"


def test_a_body_that_never_ends_is_not_read_to_its_end() -> None:
    asked = 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b"x" * (1 << 20), "more_body": True}

    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": []}
    with pytest.raises(FineryError, match="16 MiB"):
        asyncio.run(body_of(Request(scope, receive)))
    assert asked == MOST_DROPPED // (1 << 20) + 1


@pytest.mark.parametrize("path", ROUTES)
def test_a_replica_that_is_stopped_or_lost_takes_no_requests(path: str) -> None:
    engine = scripted("a")
    replica = replica_of(engine, RENDERER)
    client = TestClient(create_app(replica))
    engine.fault = "out of memory"
    for reason in ("out of memory", "being stopped"):
        response = client.post(path, json=body_for(path))
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert reason in response.json()["error"]["message"]
        health = client.get("/health")
        assert health.status_code == 503
        assert reason in health.json()["reason"]
        replica.draining = True
    assert not engine.wanted


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (FineryError("no such schema"), 400, "no such schema"),
        (EngineLostError("it ended"), 503, "it ended"),
        (ValueError("inner workings"), 500, "The replica failed; its log says why."),
    ],
)
def test_an_error_before_the_first_token_has_a_status(
    error: Exception, status: int, told: str, stream: bool
) -> None:
    response = client_of(scripted("abc", error=error)).post(
        CHAT, json={"messages": HELLO, "stream": stream}
    )
    assert response.status_code == status
    assert response.json()["error"]["message"] == told


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
def test_azure_ais_doors_have_errors_of_their_own(path: str) -> None:
    client = client_of(scripted("abc", error=EngineLostError("it ended")))
    error = client.post(path, json=body_for(path)).json()["error"]
    assert error == {"code": "engine_lost", "message": "it ended", "status": 503}
    response = client.post(path, json={**body_for(path), "temperature": 2})
    assert (response.status_code, response.json()["error"]["status"]) == (422, 422)
    response = client.post(
        path, json={**body_for(path), "odd": 1}, headers={"extra-parameters": "drop"}
    )
    assert response.status_code == 503, "the parameter was dropped, so the engine was asked"


def test_a_stream_that_breaks_says_so_and_is_not_done() -> None:
    engine = scripted("abc", error=EngineLostError("it ended"), after=2)
    response = client_of(engine).post(CHAT, json={"messages": HELLO, "stream": True})
    *_, last = [line for line in response.text.split("\n") if line]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "it ended"
    assert "[DONE]" not in response.text
    assert engine.closed == 1


def test_the_openai_client_reads_our_errors() -> None:
    import openai

    client = OpenAI(
        api_key="secret",
        base_url="http://replica/v1",
        http_client=client_of(scripted("abc"), "secret"),  # type: ignore[arg-type]
        max_retries=0,
    )
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="demo", messages=[], temperature=0)
    assert (bad.value.param, bad.value.code) == ("messages", "invalid_request")
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-4", messages=HELLO)  # type: ignore[arg-type]
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="other").models.list()


def test_adapters_come_and_go_and_are_asked_for_by_name(tmp_path: Any) -> None:
    engine = scripted(f"a{END}")
    client = client_of(engine, "secret")
    client.headers["authorization"] = "Bearer secret"
    added = client.post("/adapters", json={"name": "polite", "folder": str(tmp_path)})
    assert added.json() == {"name": "polite", "adapters": ["polite"]}
    models = client.get("/v1/models").json()["data"]
    assert [(model["id"], model.get("parent")) for model in models] == [
        ("demo", None),
        ("polite", "demo"),
    ]
    by_header = {"x-finery-adapter": "polite"}
    assert client.post(CHAT, json={"messages": HELLO}, headers=by_header).status_code == 200
    by_name = client.post(CHAT, json={"messages": HELLO, "model": "polite"})
    assert by_name.json()["model"] == "polite"
    plain = client.post(CHAT, json={"messages": HELLO})
    assert plain.json()["model"] == "demo"
    assert [wanted.adapter for wanted in engine.wanted] == ["polite", "polite", ""]
    assert client.delete("/adapters/polite").json() == {"name": "polite", "adapters": []}
    assert client.delete("/adapters/polite").status_code == 404
    assert client.post(CHAT, json={"messages": HELLO}, headers=by_header).status_code == 404
    assert engine.adapters == {}


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"name": "a"},
        {"name": "../a", "folder": "."},
        {"name": "a", "folder": 3},
        {"name": "a", "folder": "/no/such/folder"},
        {"name": "demo", "folder": "."},
    ],
)
def test_a_wrong_adapter_is_refused(body: Any) -> None:
    client = client_of(scripted("a"), "secret")
    response = client.post("/adapters", json=body, headers={"authorization": "Bearer secret"})
    assert response.status_code == 400


def test_an_adapter_with_a_renderer_of_its_own_is_read_and_written_with_it(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = stub_renderer().tokenizer
    tokenizer.chat_template = str(tokenizer.chat_template).replace("\n", " ")
    own = make_renderer(tokenizer, "own")
    own.save(tmp_path)
    engine = scripted(f"a{END}")
    replica = replica_of(engine, RENDERER, "secret")
    read: list[str] = []
    monkeypatch.setattr(OwnReader, "read", _noting(read, OwnReader.read))
    client = TestClient(create_app(replica), headers={"authorization": "Bearer secret"})
    added = client.post("/adapters", json={"name": "polite", "folder": str(tmp_path)})
    assert added.status_code == 200, added.text
    for headers, model in (({"x-finery-adapter": "polite"}, None), ({}, "polite"), ({}, "demo")):
        read.clear()
        response = client.post(CHAT, json={"messages": HELLO, "model": model}, headers=headers)
        assert response.status_code == 200
        assert read[-1] == ("" if model == "demo" else str(tmp_path))
    assert [wanted.adapter for wanted in engine.wanted] == ["polite", "polite", ""]


def _noting(read: list[str], original: Any) -> Any:
    async def noted(
        self: Any, route: str, body: bytes, headers: Any, place: str, limits: Any
    ) -> Any:
        read.append(place)
        return await original(self, route, body, headers, place, limits)

    return noted


def test_an_adapter_that_breaks_the_engine_is_a_fault_of_ours(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = scripted("a")

    async def breaks(name: str, folder: Any) -> None:
        raise ValueError("inner workings")

    monkeypatch.setattr(engine, "add_adapter", breaks)
    response = client_of(engine, "secret").post(
        "/adapters",
        json={"name": "a", "folder": str(tmp_path)},
        headers={"authorization": "Bearer secret"},
    )
    assert response.status_code == 500
    assert "inner workings" not in response.text


def test_adapters_are_for_the_key_and_for_engines_that_take_them(tmp_path: Any) -> None:
    body = {"name": "a", "folder": str(tmp_path)}
    assert client_of(scripted("a")).post("/adapters", json=body).status_code == 403
    client = client_of(scripted("a", features=frozenset()), "secret")
    response = client.post("/adapters", json=body, headers={"authorization": "Bearer secret"})
    assert response.status_code == 400
    assert "takes no adapters" in response.json()["error"]["message"]


def test_the_metrics_count_requests_tokens_and_times() -> None:
    client = client_of(scripted(f"abc{END}"))
    prompt = client.post(CHAT, json={"messages": HELLO}).json()["usage"]["prompt_tokens"]
    client.post(CHAT, json={"messages": []})
    text = client.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines[f'finery_requests_total{{route="{CHAT}",status="200"}}'] == "1.0"
    assert lines[f'finery_requests_total{{route="{CHAT}",status="400"}}'] == "1.0"
    assert lines["finery_prompt_tokens_total"] == f"{prompt}.0"
    assert lines["finery_completion_tokens_total"] == "4.0"
    assert lines["finery_time_to_first_token_seconds_count"] == "1.0"
    assert lines["finery_time_between_tokens_seconds_count"] == "3.0"
    assert lines["finery_answers_running"] == lines["finery_answers_waiting"] == "0.0"


def test_the_metrics_are_prometheus_text() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    response = client_of(scripted("a")).get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    names = {family.name for family in text_string_to_metric_families(response.text)}
    assert {"finery_requests", "finery_request_seconds", "finery_answers_running"} <= names

"""The chat: who may be asked, how the service asks for a browser, what it passes on."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from endpoint_store import PRIMARY, put_deployment, put_endpoint
from fastapi.testclient import TestClient
from studio_store import put_model

from finery.endpoints import keys, service
from finery.endpoints.gateway import control
from finery.endpoints.gateway.addresses import Addresses
from finery.studio import chat_relay
from finery.workspace.place import Workspace

ORIGIN = {"origin": "http://127.0.0.1"}
HTMX = {**ORIGIN, "hx-request": "true"}
EVIL = "<script>alert(1)</script>"
TURN = '[{"role": "user", "content": "Hi"}]'
Handler = Callable[[httpx.Request], Any]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
    """What the gateway is asked; by itself it says `Good day.` in two pieces."""
    answer_with(monkeypatch, lambda _request: streamed(GOOD))
    return SEEN


SEEN: list[httpx.Request] = []


def answer_with(monkeypatch: pytest.MonkeyPatch, handler: Handler) -> None:
    """A gateway that answers so."""
    SEEN.clear()

    def note(request: httpx.Request) -> Any:
        SEEN.append(request)
        return handler(request)

    at = Addresses("localhost", 1, 2)
    monkeypatch.setattr(control, "addresses", lambda _workspace: at)
    transport = httpx.MockTransport(note)
    monkeypatch.setattr(
        chat_relay, "new_client", lambda: httpx.AsyncClient(transport=transport, trust_env=False)
    )


def piece(**choice: Any) -> str:
    return f"data: {json.dumps({'choices': [choice]})}\n\n"


USAGE = {"prompt_tokens": 5, "completion_tokens": 3}
GOOD = (
    piece(delta={"role": "assistant", "content": ""}),
    piece(delta={"content": "Good "}),
    piece(delta={"content": "day."}),
    piece(delta={}, finish_reason="stop"),
    f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n",
    "data: [DONE]\n\n",
)


def streamed(events: tuple[str, ...], fail: bool = False) -> httpx.Response:
    async def content() -> AsyncIterator[bytes]:
        for event in events:
            yield event.encode()
        if fail:
            raise httpx.ReadError("cut")

    headers = {"content-type": "text/event-stream", "azureml-model-deployment": "blue"}
    return httpx.Response(200, headers=headers, content=content())


def told(text: str) -> list[dict[str, Any]]:
    return [json.loads(part.removeprefix("data: ")) for part in text.split("\n\n") if part]


def token(browser: TestClient) -> str:
    found = re.search(r'"x-finery-token": "([^"]+)"', browser.get("/studio/chat").text)
    assert found
    return found[1]


def send(browser: TestClient, place: str = "/answer", **fields: str) -> Any:
    data = {"token": token(browser), "voice": "talk/blue", "messages": TURN, **fields}
    return browser.post(f"/studio/chat{place}", data=data, headers=HTMX)


def chosen(page: str) -> list[str]:
    return re.findall(r'value="([^"]+)" data-voice checked', page)


def test_the_page_says_what_to_do_where_nobody_answers(browser: TestClient) -> None:
    page = browser.get("/studio/chat").text
    assert "No model answers yet" in page and 'href="/studio/deploy"' in page


def test_every_deployment_may_be_asked_and_the_traffic_where_it_is_shared(
    browser: TestClient, workspace: Workspace
) -> None:
    put_model(workspace, "tuned", "job", base_model='{"source": "x"}')
    put_endpoint(workspace)
    put_deployment(workspace, "talk", "slow", ready=0)
    page = browser.get("/studio/chat").text
    assert re.findall(r'value="([^"]+)" data-voice', page) == [
        "talk/blue",
        "talk/green",
        "talk/slow",
    ]
    assert "tuned:1 · tuned" in page and "no replica answers now" in page
    put_endpoint(workspace, "shared", {"upper": 50, "lower": 50}, ("upper", "lower"))
    assert 'value="shared" data-voice' in browser.get("/studio/chat").text


def test_an_address_says_who_is_asked(browser: TestClient, workspace: Workspace) -> None:
    put_endpoint(workspace, deployments=("one", "two", "three", "four", "five"))
    assert chosen(browser.get("/studio/chat").text) == ["talk/one"]
    two = browser.get("/studio/chat?voice=talk/two&voice=talk/one&voice=talk/two").text
    assert chosen(two) == ["talk/one", "talk/two"]
    assert chosen(browser.get("/studio/chat?endpoint=talk&deployment=three").text) == ["talk/three"]
    every = "&".join(f"voice=talk/{one}" for one in ("one", "two", "three", "four", "five"))
    page = browser.get(f"/studio/chat?{every}").text
    assert len(chosen(page)) == 4 and "At most 4" in page and "talk/five is left out" in page
    gone = browser.get(f"/studio/chat?voice=talk/{EVIL}").text
    assert chosen(gone) == [] and "Nobody answers at talk/" in gone and EVIL not in gone


def test_models_without_an_endpoint_and_their_bases_are_offered(
    browser: TestClient, workspace: Workspace
) -> None:
    base = "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/15"
    put_model(workspace, "tuned", "job", base_model=json.dumps({"uri": base}))
    put_model(workspace, "lonely", "job", base_model=json.dumps({"uri": "nonsense"}))
    put_endpoint(workspace)
    page = browser.get("/studio/chat").text
    assert "Models without an endpoint (2)" in page
    assert "/studio/deploy?model=lonely%3A1" in page
    assert "model=Phi-3-mini-4k-instruct%3A15&amp;registry=azureml" in page
    put_deployment(workspace, "talk", "base", model=base)
    assert "Models without an endpoint (1)" in browser.get("/studio/chat").text


def test_an_answer_is_passed_on_as_it_is_made_with_its_figures(
    browser: TestClient, workspace: Workspace, asked: list[httpx.Request]
) -> None:
    put_endpoint(workspace)
    settings = {"temperature": "0.5", "top_p": "0.9", "max_tokens": "7", "seed": "3"}
    answer = send(browser, **settings)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    *said, last = told(answer.text)
    assert [one["text"] for one in said] == ["Good ", "day."]
    assert last["done"] | {"seconds": 0, "first_seconds": 0, "tokens_per_s": 0} == {
        **{"deployment": "blue", "finish_reason": "stop", "prompt_tokens": 5},
        **{"completion_tokens": 3, "seconds": 0, "first_seconds": 0, "tokens_per_s": 0},
    }
    assert last["done"]["first_seconds"] >= 0 and last["done"]["tokens_per_s"] > 0
    (request,) = asked
    assert str(request.url) == "http://127.0.0.1:2/endpoints/talk/v1/chat/completions"
    assert request.headers["azureml-model-deployment"] == "blue"
    assert json.loads(request.content) == {
        **{"model": "talk", "messages": [{"role": "user", "content": "Hi"}], "stream": True},
        **{"temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 3},
        "stream_options": {"include_usage": True},
    }


def test_the_key_is_the_services_business(
    browser: TestClient, workspace: Workspace, asked: list[httpx.Request]
) -> None:
    put_endpoint(workspace)
    answer = send(browser)
    assert asked[0].headers["authorization"] == f"Bearer {PRIMARY}"
    assert PRIMARY not in answer.text + browser.get("/studio/chat").text


@pytest.mark.parametrize("mode", ["aml_token", "aad_token"])
def test_endpoints_with_tokens_are_asked_with_one_that_opens_them(
    browser: TestClient, workspace: Workspace, asked: list[httpx.Request], mode: Any
) -> None:
    put_endpoint(workspace, auth_mode=mode)
    assert told(send(browser).text)[-1]["done"]
    given = asked[0].headers["authorization"].removeprefix("Bearer ")
    keys.check(workspace, service.get(workspace, "talk"), given)


def test_without_a_deployment_the_traffic_decides(
    browser: TestClient, workspace: Workspace, asked: list[httpx.Request]
) -> None:
    put_endpoint(workspace)
    assert told(send(browser, voice="talk").text)[-1]["done"]["deployment"] == "blue"
    assert "azureml-model-deployment" not in asked[0].headers


def test_a_refusal_comes_in_the_endpoints_own_words(
    browser: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_endpoint(workspace)
    said = {"error": {"message": f"temperature: 500 {EVIL}", "type": "x"}}
    answer_with(monkeypatch, lambda _request: httpx.Response(400, json=said))
    assert told(send(browser).text) == [{"error": f"temperature: 500 {EVIL}"}]
    answer_with(monkeypatch, lambda _request: httpx.Response(502, text="<html>"))
    assert told(send(browser).text) == [{"error": "The endpoint answered with status 502."}]


def test_an_answer_that_breaks_off_says_so(
    browser: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_endpoint(workspace)
    broken = {"error": {"message": "The replica died."}}
    for events, fail, expected in (
        (GOOD[:2], True, chat_relay.BROKEN),
        (GOOD[:2], False, chat_relay.BROKEN),
        ((*GOOD[:2], f"data: {json.dumps(broken)}\n\n"), False, "The replica died."),
    ):
        answer_with(monkeypatch, lambda _r, e=events, f=fail: streamed(e, f))
        assert told(send(browser).text) == [{"text": "Good "}, {"error": expected}]


def test_a_gateway_that_is_away_is_said(
    browser: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_endpoint(workspace)
    refused = send(browser)  # there never was one
    assert refused.status_code == 503 and "gateway does not answer" in refused.text

    def away(_request: httpx.Request) -> Any:
        raise httpx.ConnectError("refused")

    answer_with(monkeypatch, away)
    assert told(send(browser).text) == [{"error": chat_relay.AWAY}]


def test_a_browser_that_leaves_ends_the_question(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_endpoint(workspace)
    ended: list[str] = []

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield GOOD[1].encode()
                await asyncio.sleep(0)
        finally:
            ended.append("closed")

    answer_with(monkeypatch, lambda _request: httpx.Response(200, content=endless()))

    async def read() -> None:
        pieces = chat_relay.pieces(chat_relay.voice(workspace, "talk", "blue"), [], {})
        assert await anext(pieces) == {"text": "Good "}
        await pieces.aclose()  # pyright: ignore[reportAttributeAccessIssue] - a generator

    asyncio.run(read())
    assert ended == ["closed"]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("messages", "", "a JSON list of messages"),
        ("messages", "[]", "a JSON list of messages"),
        ("messages", "{", "a JSON list of messages"),
        ("messages", '[{"role": "robot", "content": "x"}]', "messages[0]"),
        ("messages", '[{"role": "user", "content": 7}]', "messages[0].content"),
        ("messages", r'[{"role": "user", "content": "\ud800"}]', "surrogate"),
        ("messages", '[{"role": "assistant", "content": "x"}]', "an answer at the end"),
        ("temperature", "warm", "temperature"),
        ("temperature", "nan", "temperature"),
        ("top_p", "1e999", "top_p"),
        ("seed", "1.5", "seed"),
        ("seed", "9" * 400, "seed"),
    ],
)
def test_a_wrong_question_is_refused_before_anybody_is_asked(
    browser: TestClient,
    workspace: Workspace,
    asked: list[httpx.Request],
    field: str,
    value: str,
    words: str,
) -> None:
    put_endpoint(workspace)
    refused = send(browser, **{field: value})
    assert refused.status_code == 400 and words in refused.text and asked == []


def test_who_is_not_there_is_a_404(
    browser: TestClient, workspace: Workspace, asked: list[httpx.Request]
) -> None:
    put_endpoint(workspace)
    for voice in ("", "tolk", "talk/blu", "../talk"):
        assert send(browser, voice=voice).status_code == 404
    assert asked == []


@pytest.mark.parametrize("place", ["/answer", "/save"])
def test_nothing_is_asked_or_kept_without_the_pages_token(
    browser: TestClient, workspace: Workspace, asked: list[httpx.Request], place: str
) -> None:
    put_endpoint(workspace)
    fields = {"voice": "talk/blue", "messages": TURN, "data": "talks"}
    assert browser.post(f"/studio/chat{place}", data=fields, headers=ORIGIN).status_code == 403
    assert asked == []


def test_the_box_of_an_endpoint_asks_once(
    browser: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_endpoint(workspace)
    choice = {"message": {"content": EVIL}, "finish_reason": "length"}
    said = {"choices": [choice], "usage": USAGE}
    headers = {"azureml-model-deployment": "green"}
    answer_with(monkeypatch, lambda _request: httpx.Response(200, json=said, headers=headers))
    box = {"token": token(browser), "message": "Hello?", "deployment": "green"}
    address = "/studio/endpoints/talk/ask"
    answer = browser.post(address, data=box, headers=HTMX)
    assert answer.status_code == 200 and "<html" not in answer.text
    assert "&lt;script&gt;" in answer.text and EVIL not in answer.text
    assert "green · 3 tokens" in answer.text and "cut off" in answer.text
    assert json.loads(SEEN[0].content)["temperature"] == 0.0
    assert "<html" in browser.post(address, data=box, headers=ORIGIN).text  # without scripts
    empty = browser.post(address, data={**box, "message": " "}, headers=HTMX)
    assert empty.status_code == 400 and "hx-retarget" not in empty.headers
    said = {"error": {"message": "No place is free."}}
    answer_with(monkeypatch, lambda _request: httpx.Response(429, json=said))
    refused = browser.post(address, data=box, headers=HTMX)
    assert refused.status_code == 409 and "No place is free." in refused.text

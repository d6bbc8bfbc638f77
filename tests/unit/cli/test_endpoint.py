"""`finery endpoint`: deploy, share traffic, ask, look at keys and logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripted_service import WORKSPACE, Script
from typer.testing import CliRunner

from finery.cli.endpoint import app
from finery.errors import FineryError, InputError

ENDPOINT = {
    "name": "chat",
    "location": "local",
    "identity": {"type": "SystemAssigned"},
    "tags": {"a": "b"},
    "properties": {
        "authMode": "Key",
        "description": "about",
        "provisioningState": "Succeeded",
        "scoringUri": "https://here/endpoints/chat/score",
        "traffic": {"blue": 100},
    },
}
DEPLOYMENT = {
    "name": "blue",
    "sku": {"capacity": 2},
    "properties": {"provisioningState": "Succeeded", "model": "m:1"},
}
VERSION = {"name": "3", "id": f"{WORKSPACE}/models/m/versions/3", "properties": {}}


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def _endpoint(script: Script, **properties: Any) -> None:
    endpoint = {**ENDPOINT, "properties": {**ENDPOINT["properties"], **properties}}
    script.on("GET /onlineEndpoints/chat", endpoint)
    script.on("PUT /onlineEndpoints/chat", endpoint)


def test_the_list_names_addresses_and_shares(script: Script) -> None:
    script.on("GET /onlineEndpoints", {"value": [ENDPOINT]})
    row = run("list").stdout.splitlines()[1].split()
    assert row == ["chat", "Succeeded", "blue=100", "https://here/endpoints/chat/score"]


def test_show_lists_the_deployments(script: Script) -> None:
    _endpoint(script)
    script.on("GET /onlineEndpoints/chat/deployments", {"value": [DEPLOYMENT]})
    assert run("show", "chat").stdout.splitlines()[-1].split() == [
        *("blue", "Succeeded", "100", "%", "2", "m:1")
    ]
    answer = json.loads(run("show", "chat", "--json").stdout)
    assert answer["deployments"] == [DEPLOYMENT]


def test_the_first_deployment_makes_the_endpoint_and_gets_all_traffic(script: Script) -> None:
    fresh = {**ENDPOINT, "properties": {**ENDPOINT["properties"], "traffic": {}}}
    script.on("GET /onlineEndpoints/chat", fresh)
    script.answers["GET /onlineEndpoints/chat"].insert(0, _not_found())
    script.on("PUT /onlineEndpoints/chat", fresh)
    script.on("GET /models/m/versions", {"value": [VERSION]})
    script.on("PUT /deployments/default", DEPLOYMENT)
    script.on("GET /deployments/default", DEPLOYMENT)
    result = run("deploy", "chat", "--model", "m", "--instances", "2")
    assert result.exit_code == 0, result.output
    sent = script.sent("PUT /deployments/default")
    assert (sent["properties"]["model"], sent["sku"]["capacity"]) == (VERSION["id"], 2)
    made, shared = _bodies(script, "PUT", "/onlineEndpoints/chat")
    assert "traffic" not in made["properties"]
    assert shared["properties"]["traffic"] == {"default": 100}


def test_a_further_deployment_gets_no_traffic_unless_asked(script: Script) -> None:
    _endpoint(script)
    script.on("GET /models/m/versions/2", VERSION)
    script.on("PUT /deployments/green", DEPLOYMENT)
    script.on("GET /deployments/green", DEPLOYMENT)
    assert run("deploy", "chat", "--model", "m:2", "--deployment", "green").exit_code == 0
    assert _bodies(script, "PUT", "/onlineEndpoints/chat") == []


def test_traffic_keeps_what_else_the_endpoint_says(script: Script) -> None:
    _endpoint(script)
    assert run("traffic", "chat", "blue=90", "green=10").exit_code == 0
    sent = script.sent("PUT /onlineEndpoints/chat")
    assert sent["properties"]["traffic"] == {"blue": 90, "green": 10}
    assert sent["properties"]["description"] == "about"
    assert sent["tags"] == {"a": "b"}
    assert "scoringUri" not in sent["properties"]


def test_every_share_that_is_none_is_named(script: Script) -> None:
    result = run("traffic", "chat", "blue", "=3", "green=x", "red=-1")
    assert isinstance(result.exception, InputError)
    assert len(result.exception.faults) == 4
    assert script.asked == []


def test_keys_are_shown_and_replaced(script: Script) -> None:
    script.on("POST /listKeys", {"primaryKey": "one", "secondaryKey": "two"})
    assert run("keys", "chat").stdout.split() == ["primary", "one", "secondary", "two"]
    script.on("POST /regenerateKeys", None)
    assert run("keys", "chat", "--regenerate", "secondary", "--json").exit_code == 0
    assert script.sent("POST /regenerateKeys") == {"keyType": "Secondary"}
    assert isinstance(run("keys", "chat", "--regenerate", "third").exception, InputError)


@pytest.mark.parametrize(
    ("answer", "shown"),
    [({"output": "Hello."}, "Hello.\n"), (["a", "b"], "a\nb\n"), ([{"output": "c"}], "c\n")],
)
def test_invoke_prints_the_answer_alone(script: Script, answer: Any, shown: str) -> None:
    _endpoint(script)
    script.on("POST /listKeys", {"primaryKey": "secret"})
    script.on("POST /endpoints/chat/score", answer)
    result = run("invoke", "chat", "--message", "Hi", "--deployment", "blue")
    assert result.stdout == shown
    request = script.asked[-1]
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["azureml-model-deployment"] == "blue"
    sent = json.loads(request.content)
    assert sent["input_data"]["input_string"] == [{"role": "user", "content": "Hi"}]


def test_invoke_sends_a_file_as_it_is(script: Script, tmp_path: Path) -> None:
    _endpoint(script)
    script.on("POST /listKeys", {"primaryKey": "secret"})
    script.on("POST /endpoints/chat/score", {"output": "x"})
    file = tmp_path / "body.json"
    file.write_text('{"input_data":  1}')
    result = run("invoke", "chat", "--request-file", str(file), "--json")
    assert json.loads(result.stdout) == {"output": "x"}
    assert script.asked[-1].content == b'{"input_data":  1}'


def test_invoke_wants_one_question(script: Script) -> None:
    assert isinstance(run("invoke", "chat").exception, InputError)
    assert script.asked == []


def test_an_answer_without_text_is_an_error(script: Script) -> None:
    _endpoint(script)
    script.on("POST /listKeys", {"primaryKey": "secret"})
    script.on("POST /endpoints/chat/score", {"output": None, "error": {"status_code": 500}})
    assert isinstance(run("invoke", "chat", "--message", "Hi").exception, FineryError)


def test_one_deployment_or_the_whole_endpoint_goes(script: Script) -> None:
    script.on("DELETE /onlineEndpoints/chat", None)
    script.on("DELETE /deployments/blue", None)
    assert "endpoint chat is gone" in run("delete", "chat").stderr
    assert "blue of chat is gone" in run("delete", "chat", "--deployment", "blue").stderr


def test_logs_are_the_replicas_own_words(script: Script) -> None:
    script.on("POST /deployments/default/getLogs", {"content": "started\n"})
    assert run("logs", "chat", "--lines", "5").stdout.strip() == "started"
    assert script.sent("POST /getLogs")["tail"] == 5


def _not_found() -> Any:
    import httpx

    return httpx.Response(404, json={"error": {"message": "no"}})


def _bodies(script: Script, method: str, end: str) -> list[Any]:
    return [
        json.loads(one.content)
        for one in script.asked
        if one.method == method and one.url.path.endswith(end)
    ]

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
        "openaiBaseUrl": "http://here:1/endpoints/chat/v1",
        "traffic": {"blue": 100},
    },
}
DEPLOYMENT = {
    "name": "blue",
    "sku": {"capacity": 2},
    "properties": {
        "provisioningState": "Succeeded",
        "model": f"{WORKSPACE}/models/m/versions/1",
        "engine": "auto",
        "properties": {"finery.reported.engine": "torch", "finery.reported.precision": "int8"},
    },
}


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


def test_show_lists_the_deployments_with_what_their_replicas_say(script: Script) -> None:
    _endpoint(script)
    script.on("GET /onlineEndpoints/chat/deployments", {"value": [DEPLOYMENT]})
    assert run("show", "chat").stdout.splitlines()[-1].split() == [
        *("blue", "Succeeded", "100", "%", "2", "torch", "int8", "m:1")
    ]


def test_show_says_why_a_deployment_failed(script: Script) -> None:
    _endpoint(script)
    about = {"provisioningState": "Failed", "properties": {"finery.reported.error": "No memory."}}
    failed = {**DEPLOYMENT, "name": "green", "properties": about}
    script.on("GET /onlineEndpoints/chat/deployments", {"value": [DEPLOYMENT, failed]})
    assert run("show", "chat").stdout.endswith("\ngreen failed. No memory.\n")


def test_show_gives_programs_the_addresses_at_the_top(script: Script) -> None:
    _endpoint(script)
    script.on("GET /onlineEndpoints/chat/deployments", {"value": [DEPLOYMENT]})
    answer = json.loads(run("show", "chat", "--json").stdout)
    assert answer["scoringUri"] == "https://here/endpoints/chat/score"
    assert answer["openaiBaseUrl"] == "http://here:1/endpoints/chat/v1"
    assert answer["traffic"] == {"blue": 100}
    assert answer["properties"] == ENDPOINT["properties"]
    (deployment,) = answer["deployments"]
    assert (deployment["name"], deployment["engine"]) == ("blue", "torch")


def test_a_mirror_is_set_with_the_traffic_and_ended_with_0(script: Script) -> None:
    _endpoint(script)
    assert run("traffic", "chat", "blue=100", "--mirror", "green=20").exit_code == 0
    sent = script.sent("PUT /onlineEndpoints/chat")
    assert sent["properties"]["mirrorTraffic"] == {"green": 20}
    result = run("traffic", "chat", "blue=100", "--mirror", "green")
    assert isinstance(result.exception, InputError)


def test_traffic_keeps_what_else_the_endpoint_says(script: Script) -> None:
    _endpoint(script, mirrorTraffic={"red": 5})
    assert run("traffic", "chat", "blue=90", "green=10").exit_code == 0
    sent = script.sent("PUT /onlineEndpoints/chat")
    assert sent["properties"]["traffic"] == {"blue": 90, "green": 10}
    assert sent["properties"]["mirrorTraffic"] == {"red": 5}
    assert sent["properties"]["description"] == "about"
    assert sent["tags"] == {"a": "b"}
    assert "scoringUri" not in sent["properties"]


def test_every_share_that_is_none_is_named(script: Script) -> None:
    result = run("traffic", "chat", "blue", "=3", "green=x", "red=-1")
    assert isinstance(result.exception, InputError)
    assert len(result.exception.faults) == 4
    assert script.asked == []


def test_keys_are_shown(script: Script) -> None:
    both = {"primaryKey": "one", "secondaryKey": "two"}
    script.on("POST /listKeys", both)
    assert run("keys", "chat").stdout.split() == ["primary", "one", "secondary", "two"]
    assert json.loads(run("keys", "chat", "--json").stdout) == both


@pytest.mark.parametrize(
    ("asked", "replaced"),
    [
        ([], ["Primary"]),
        (["--key", "secondary"], ["Secondary"]),
        (["--key", "both"], ["Primary", "Secondary"]),
    ],
)
def test_a_rotated_key_is_replaced_and_the_new_ones_are_shown(
    script: Script, asked: list[str], replaced: list[str]
) -> None:
    script.on("POST /listKeys", {"primaryKey": "new", "secondaryKey": "two"})
    script.on("POST /regenerateKeys", None)
    answer = json.loads(run("rotate", "chat", *asked, "--json").stdout)
    assert answer == {"primaryKey": "new", "secondaryKey": "two"}
    sent = [one["keyType"] for one in _bodies(script, "POST", "/regenerateKeys")]
    assert sent == replaced


def test_another_key_cannot_be_rotated(script: Script) -> None:
    assert isinstance(run("rotate", "chat", "--key", "third").exception, InputError)
    assert script.asked == []


@pytest.mark.parametrize(
    ("answer", "shown"),
    [({"output": "Hello."}, "Hello.\n"), (["a", "b"], "a\nb\n"), ([{"output": "c"}], "c\n")],
)
def test_a_question_prints_the_answer_alone(script: Script, answer: Any, shown: str) -> None:
    _endpoint(script)
    script.on("POST /listKeys", {"primaryKey": "secret"})
    script.on("POST /endpoints/chat/score", answer)
    result = run("test", "chat", "--message", "Hi", "--deployment", "blue")
    assert result.stdout == shown
    request = script.asked[-1]
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["azureml-model-deployment"] == "blue"
    sent = json.loads(request.content)
    assert sent["input_data"]["input_string"] == [{"role": "user", "content": "Hi"}]


def test_a_question_in_a_file_is_sent_as_it_is(script: Script, tmp_path: Path) -> None:
    _endpoint(script)
    script.on("POST /listKeys", {"primaryKey": "secret"})
    script.on("POST /endpoints/chat/score", {"output": "x"})
    file = tmp_path / "body.json"
    file.write_text('{"input_data":  1}')
    result = run("test", "chat", "--request-file", str(file), "--json")
    assert json.loads(result.stdout) == {"output": "x"}
    assert script.asked[-1].content == b'{"input_data":  1}'


def test_it_wants_one_question(script: Script) -> None:
    assert isinstance(run("test", "chat").exception, InputError)
    assert script.asked == []


def test_an_answer_without_text_is_an_error(script: Script) -> None:
    _endpoint(script)
    script.on("POST /listKeys", {"primaryKey": "secret"})
    script.on("POST /endpoints/chat/score", {"output": None, "error": {"status_code": 500}})
    assert isinstance(run("test", "chat", "--message", "Hi").exception, FineryError)


def test_one_deployment_or_the_whole_endpoint_goes(script: Script) -> None:
    script.on("DELETE /onlineEndpoints/chat", None)
    script.on("DELETE /deployments/blue", None)
    assert "endpoint chat is gone" in run("delete", "chat").stderr
    assert "blue of chat is gone" in run("delete", "chat", "--deployment", "blue").stderr


def test_logs_are_the_words_of_the_deployment_with_most_traffic(script: Script) -> None:
    _endpoint(script, traffic={"blue": 10, "green": 90})
    several = [{**DEPLOYMENT, "name": name} for name in ("blue", "green")]
    script.on("GET /onlineEndpoints/chat/deployments", {"value": several})
    script.on("POST /deployments/green/getLogs", {"content": "started\n"})
    script.on("POST /deployments/blue/getLogs", {"content": "old\n"})
    assert run("logs", "chat", "--lines", "5").stdout.strip() == "started"
    assert script.sent("POST /getLogs")["tail"] == 5
    assert run("logs", "chat", "--deployment", "blue").stdout.strip() == "old"


def test_logs_of_an_endpoint_without_deployments_say_so(script: Script) -> None:
    _endpoint(script)
    script.on("GET /onlineEndpoints/chat/deployments", {"value": []})
    assert "no deployments" in str(run("logs", "chat").exception)


def test_an_endpoint_with_tokens_is_asked_with_a_token(script: Script) -> None:
    _endpoint(script, authMode="AADToken")
    script.on("POST /onlineEndpoints/chat/token", {"accessToken": "a.b.c"})
    script.on("POST /endpoints/chat/score", {"output": "x"})
    assert run("test", "chat", "--message", "Hi").stdout == "x\n"
    assert script.asked[-1].headers["authorization"] == "Bearer a.b.c"


def _bodies(script: Script, method: str, end: str) -> list[Any]:
    return [
        json.loads(one.content)
        for one in script.asked
        if one.method == method and one.url.path.endswith(end)
    ]

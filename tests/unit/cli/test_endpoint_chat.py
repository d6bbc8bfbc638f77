"""`finery chat --endpoint`: a conversation with a model behind an endpoint."""

from __future__ import annotations

import json

import httpx
import pytest
import typer
from click.testing import Result
from scripted_service import Script
from typer.testing import CliRunner

from finery.cli.chat import chat_command
from finery.errors import FineryError, InputError
from finery.workspace.errors import UnauthenticatedError

CALL = "POST /endpoints/chat/v1/chat/completions"


def run(*words: str, typed: str = "") -> Result:
    app = typer.Typer()
    app.command()(chat_command)
    return CliRunner().invoke(app, list(words), input=typed)


def events(*pieces: object) -> bytes:
    lines = [f"data: {json.dumps(piece)}\n\n" for piece in pieces]
    return "".join([*lines, "data: [DONE]\n\n", ": usage prompt=3 completion=2\n\n"]).encode()


def delta(text: str) -> dict[str, object]:
    return {"choices": [{"delta": {"content": text}}]}


@pytest.fixture
def there(script: Script) -> Script:
    about = {"openaiBaseUrl": "http://here:1/endpoints/chat/v1", "authMode": "Key"}
    script.on("GET /onlineEndpoints/chat", {"name": "chat", "properties": about})
    script.on("POST /listKeys", {"primaryKey": "secret", "secondaryKey": "other"})
    script.on(
        CALL, events({"choices": [{"delta": {"role": "assistant"}}]}, delta("Hel"), delta("lo"))
    )
    return script


def test_the_answer_is_printed_as_it_comes(there: Script) -> None:
    result = run("--endpoint", "chat", "--message", "Hi", "--system", "Be kind", "--seed", "7")
    assert result.stdout == "Hello\n", result.output
    request = there.asked[-1]
    assert str(request.url) == "http://here:1/endpoints/chat/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer secret"
    sent = json.loads(request.content)
    assert [turn["role"] for turn in sent["messages"]] == ["system", "user"]
    assert (sent["stream"], sent["seed"], sent["max_tokens"]) == (True, 7, 512)


def test_a_deployment_can_be_named(there: Script) -> None:
    run("--endpoint", "chat", "--deployment", "green", "--message", "Hi")
    assert there.asked[-1].headers["azureml-model-deployment"] == "green"


def test_a_conversation_is_sent_whole(there: Script) -> None:
    run("--endpoint", "chat", typed="one\ntwo\n/exit\n")
    turns = json.loads(there.asked[-1].content)["messages"]
    assert [turn["content"] for turn in turns] == ["one", "Hello", "two"]


def test_json_gives_the_answer_with_its_counts(there: Script) -> None:
    choice = {"message": {"content": "Hello"}, "finish_reason": "stop"}
    there.on(CALL, {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    (answer,) = json.loads(run("--endpoint", "chat", "--message", "Hi", "--json").stdout)["answers"]
    assert answer.pop("seconds") >= 0
    assert answer == {
        "model": "chat",
        "text": "Hello",
        "prompt_tokens": 3,
        "new_tokens": 2,
        "finish_reason": "stop",
    }


def test_an_error_in_the_middle_is_told_and_the_conversation_goes_on(there: Script) -> None:
    there.on(CALL, events(delta("Hel"), {"error": {"message": "the replica broke off"}}))
    result = run("--endpoint", "chat", "--message", "Hi")
    assert isinstance(result.exception, FineryError)
    talked = run("--endpoint", "chat", typed="Hi\n/exit\n")
    assert "the replica broke off The message was taken back" in talked.stderr


def test_a_refused_key_is_said_in_the_services_words(there: Script) -> None:
    refusal = httpx.Response(401, json={"error": {"message": "The key is wrong."}})
    there.answers[CALL] = [refusal]
    result = run("--endpoint", "chat", "--message", "Hi")
    assert isinstance(result.exception, UnauthenticatedError)


@pytest.mark.parametrize("words", [(), ("model", "--endpoint", "chat")])
def test_it_wants_a_model_or_an_endpoint(script: Script, words: tuple[str, ...]) -> None:
    assert isinstance(run(*words).exception, InputError)
    assert script.asked == []

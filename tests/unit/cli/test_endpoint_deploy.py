"""`finery deploy`: a registered model, one of the registry, or a folder, answers at an endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from click.testing import Result
from scripted_service import WORKSPACE, Script
from typer.testing import CliRunner

from finery.cli import job_files
from finery.cli.deploy import deploy_at, deploy_command, served_part
from finery.errors import InputError
from finery.workspace.errors import NotFoundError

VERSION = {"name": "3", "id": f"{WORKSPACE}/models/m/versions/3", "properties": {}}
ENDPOINT = {
    "name": "chat",
    "properties": {
        "traffic": {},
        "scoringUri": "https://here/endpoints/chat/score",
        "openaiBaseUrl": "http://here:1/endpoints/chat/v1",
    },
}
DEPLOYMENT = {
    "name": "blue",
    "properties": {
        "provisioningState": "Succeeded",
        "properties": {"finery.reported.engine": "torch", "finery.reported.precision": "int8"},
    },
}


def run(*words: str) -> Result:
    app = typer.Typer()
    app.command()(deploy_command)
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def ready(script: Script) -> Script:
    """An endpoint `chat` without traffic, and the registered model `m`."""
    script.on("GET /onlineEndpoints/chat", ENDPOINT)
    script.on("PUT /onlineEndpoints/chat", ENDPOINT)
    script.on("GET /models/m/versions", {"value": [VERSION]})
    script.on("PUT /deployments/blue", DEPLOYMENT)
    script.on("GET /deployments/blue", DEPLOYMENT)
    return script


def puts(script: Script, end: str) -> list[Any]:
    return [
        json.loads(one.content)
        for one in script.asked
        if one.method == "PUT" and one.url.path.endswith(end)
    ]


def test_the_first_deployment_makes_the_endpoint_and_gets_all_traffic(ready: Script) -> None:
    missing = httpx.Response(404, json={"error": {"message": "no"}})
    ready.answers["GET /onlineEndpoints/chat"].insert(0, missing)
    result = run("m", "--endpoint", "chat", "--replicas", "2")
    assert result.exit_code == 0, result.output
    sent = ready.sent("PUT /deployments/blue")
    assert (sent["properties"]["model"], sent["sku"]["capacity"]) == (VERSION["id"], 2)
    made, shared = puts(ready, "/onlineEndpoints/chat")
    assert "traffic" not in made["properties"]
    assert shared["properties"]["traffic"] == {"blue": 100}


def test_a_further_deployment_gets_no_traffic_unless_asked(ready: Script) -> None:
    there = {**ENDPOINT, "properties": {**ENDPOINT["properties"], "traffic": {"green": 100}}}
    ready.on("GET /onlineEndpoints/chat", there)
    result = run("m", "--endpoint", "chat")
    assert puts(ready, "/onlineEndpoints/chat") == []
    assert "Next: finery endpoint canary chat --to blue" in result.stdout
    run("m", "--endpoint", "chat", "--traffic", "0")
    (shared,) = puts(ready, "/onlineEndpoints/chat")
    assert shared["properties"]["traffic"] == {"green": 100, "blue": 0}


def test_it_ends_with_how_to_ask_and_the_next_command(ready: Script) -> None:
    full = {**ENDPOINT, "properties": {**ENDPOINT["properties"], "traffic": {"blue": 100}}}
    ready.on("GET /onlineEndpoints/chat", full)
    told = run("m", "--endpoint", "chat").stdout
    assert "curl http://here:1/endpoints/chat/v1/chat/completions" in told
    assert "int8" in told
    assert told.endswith("Next: finery chat --endpoint chat\n")


def test_programs_get_the_deployment_and_the_endpoint(ready: Script) -> None:
    told = json.loads(run("m", "--endpoint", "chat", "--json").stdout)
    assert (told["name"], told["engine"]) == ("blue", "torch")
    assert told["endpoint"]["openaiBaseUrl"] == "http://here:1/endpoints/chat/v1"


def test_an_engine_is_asked_for_by_the_variable_that_other_clients_set(ready: Script) -> None:
    assert run("m", "--endpoint", "chat", "--engine", "openvino").exit_code == 0
    sent = ready.sent("PUT /deployments/blue")["properties"]
    assert sent["environmentVariables"] == {"FINERY_ENGINE": "openvino"}


def test_variables_reach_the_replicas_and_wrong_ones_are_all_named(ready: Script) -> None:
    variables = ("--env", "A=1=2", "--env", "B=")
    assert run("m", "--endpoint", "chat", "--engine", "torch", *variables).exit_code == 0
    sent = ready.sent("PUT /deployments/blue")["properties"]
    assert sent["environmentVariables"] == {"A": "1=2", "B": "", "FINERY_ENGINE": "torch"}
    result = run("m", "--endpoint", "chat", "--env", "A", "--env", "=1")
    assert isinstance(result.exception, InputError)
    assert len(result.exception.faults) == 2


def test_a_version_can_be_named(ready: Script) -> None:
    ready.on("GET /models/m/versions/2", {**VERSION, "id": "the second"})
    run("m:2", "--endpoint", "chat")
    assert ready.sent("PUT /deployments/blue")["properties"]["model"] == "the second"


def test_a_base_model_of_the_registry_needs_no_registering(ready: Script) -> None:
    ready.on("GET /registries/azureml/models/base/versions", {"value": [{"name": "4"}]})
    run("base", "--endpoint", "chat")
    sent = ready.sent("PUT /deployments/blue")
    assert sent["properties"]["model"] == "azureml://registries/azureml/models/base/versions/4"


def test_a_name_that_is_nowhere_is_said_with_where_to_look(ready: Script) -> None:
    result = run("nothing", "--endpoint", "chat")
    assert isinstance(result.exception, NotFoundError)
    assert "finery model list" in str(result.exception)
    assert puts(ready, "/deployments/blue") == []


def run_folder(folder: Path, *files: str) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("files", "part", "kind"),
    [
        (["config.json"], ".", "custom_model"),
        (["adapter_config.json"], ".", "custom_model"),
        (["recipe.yaml", "adapter/adapter_config.json"], "adapter", "custom_model"),
        (
            ["recipe.yaml", "adapter/adapter_config.json", "model/config.json"],
            *("model", "custom_model"),
        ),
        (["MLmodel", "data/model/config.json"], ".", "mlflow_model"),
    ],
)
def test_of_a_folder_the_part_that_answers_is_served(
    tmp_path: Path, files: list[str], part: str, kind: str
) -> None:
    folder = run_folder(tmp_path, *files)
    assert served_part(folder) == (folder / part, kind)


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path, script: Script) -> None:
    result = run(str(tmp_path), "--endpoint", "chat")
    assert isinstance(result.exception, InputError)
    assert script.asked == []


@pytest.fixture
def folder(tmp_path: Path, ready: Script, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with a merged model, whose files come to lie at one address."""
    monkeypatch.setattr(job_files, "upload", lambda _, path: f"azureml://there/{path.name}")
    return run_folder(tmp_path / "my run", "recipe.yaml", "model/config.json")


def test_a_folder_is_registered_under_its_name_and_served(folder: Path, ready: Script) -> None:
    ready.on("PUT /models/my-run/versions/1", {**VERSION, "id": "made"})
    result = run(str(folder), "--endpoint", "chat")
    assert result.exit_code == 0, result.output
    sent = ready.sent("PUT /models/my-run/versions/1")["properties"]
    assert (sent["modelUri"], sent["modelType"]) == ("azureml://there/model", "custom_model")
    assert ready.sent("PUT /deployments/blue")["properties"]["model"] == "made"


def test_the_same_files_are_not_registered_twice(folder: Path, ready: Script) -> None:
    known = {"id": "known", "properties": {"modelUri": "azureml://there/model"}}
    ready.on("GET /models/my-run", {"properties": {"nextVersion": "2"}})
    ready.on("GET /models/my-run/versions", {"value": [known]})
    run(str(folder), "--endpoint", "chat")
    assert puts(ready, "/models/my-run/versions/2") == []
    assert ready.sent("PUT /deployments/blue")["properties"]["model"] == "known"


def test_other_files_are_the_next_version(folder: Path, ready: Script) -> None:
    known = {"id": "known", "properties": {"modelUri": "azureml://there/before"}}
    ready.on("GET /models/my-run", {"properties": {"nextVersion": "2"}})
    ready.on("GET /models/my-run/versions", {"value": [known]})
    ready.on("PUT /models/my-run/versions/2", {**VERSION, "id": "second"})
    run(str(folder), "--endpoint", "chat")
    assert ready.sent("PUT /deployments/blue")["properties"]["model"] == "second"


def test_the_old_order_of_words_still_deploys(ready: Script) -> None:
    app = typer.Typer()
    app.command()(deploy_at)
    words = ["chat", "--model", "m", "--deployment", "blue"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert ready.sent("PUT /deployments/blue")["properties"]["model"] == VERSION["id"]

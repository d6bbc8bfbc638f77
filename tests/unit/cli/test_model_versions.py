"""`finery model list`, `show`, `register`, `lineage`: the models of the workspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripted_service import GROUP, WORKSPACE, Script, service_on
from typer.testing import CliRunner

from finery.cli.model import app, model_id
from finery.errors import InputError
from finery.workspace.errors import NotFoundError

VERSION = {
    "name": "2",
    "id": f"{WORKSPACE}/models/chat/versions/2",
    "systemData": {"createdAt": "2026-01-02T03:04:05Z"},
    "properties": {
        "modelType": "mlflow_model",
        "modelUri": "azureml://jobs/tune-1/outputs/trained_model",
        "description": "answers",
        "properties": {"finery.job": "tune-1", "finery.lineage": '{"data": {"rows": 37}}'},
    },
}


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_the_list_shows_the_newest_version_of_each(script: Script) -> None:
    script.on("GET /models", {"value": [{"name": "chat"}]})
    script.on("GET /models/chat/versions", {"value": [VERSION]})
    assert run("list").stdout.splitlines()[1].split()[:3] == ["chat", "2", "mlflow_model"]
    assert json.loads(run("list", "--json").stdout) == [VERSION]


def test_a_registry_is_asked_at_its_own_place(script: Script) -> None:
    script.on("GET /models/Phi-3-mini-4k-instruct/versions/1", VERSION)
    result = run("show", "Phi-3-mini-4k-instruct:1", "--registry", "azureml", "--json")
    assert json.loads(result.stdout) == VERSION
    path = script.asked[0].url.path
    assert path.startswith(f"/mferp/managementfrontend{GROUP}/registries/azureml/models/")


def test_show_prints_where_the_model_lies(script: Script) -> None:
    script.on("GET /models/chat/versions", {"value": [VERSION]})
    facts = dict(line.split(maxsplit=1) for line in run("show", "chat").stdout.splitlines())
    assert facts["path"] == "azureml://jobs/tune-1/outputs/trained_model"
    assert facts["version"] == "2"


def test_a_model_that_is_not_there_is_said(script: Script) -> None:
    script.on("GET /models/none/versions", {"value": []})
    assert isinstance(run("show", "none").exception, NotFoundError)


def test_a_jobs_output_is_registered_under_the_next_version(script: Script) -> None:
    script.on("GET /models/chat", {"name": "chat", "properties": {"nextVersion": "3"}})
    script.on("PUT /models/chat/versions/3", VERSION)
    assert run("register", "chat", "--job", "tune-1").exit_code == 0
    sent = script.sent("PUT /versions/3")["properties"]
    assert sent["modelUri"] == "azureml://jobs/tune-1/outputs/trained_model"
    assert sent["modelType"] == "mlflow_model"


def test_a_folder_is_uploaded_and_registered(script: Script, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    store = {"accountName": "here/_blob", "containerName": "box", "endpoint": "local"}
    script.on("GET /datastores/workspaceblobstore", {"properties": store})
    script.on("PUT /versions/1", VERSION)
    script.on("PUT ", None, status=201)
    result = run("register", "new", "--path", str(folder), "--type", "custom_model")
    assert result.exit_code == 0, result.exception
    uri = script.sent("PUT /versions/1")["properties"]["modelUri"]
    assert uri.startswith("azureml://datastores/workspaceblobstore/paths/LocalUpload/")
    assert uri.endswith("/mine")


def test_a_model_comes_from_one_place(script: Script, tmp_path: Path) -> None:
    for words in ([], ["--path", str(tmp_path), "--job", "j"]):
        assert isinstance(run("register", "chat", *words).exception, InputError)
    assert isinstance(run("register", "c", "--job", "j", "--type", "x").exception, InputError)
    assert script.asked == []


def test_lineage_is_told_with_its_parts(script: Script) -> None:
    script.on("GET /models/chat/versions", {"value": [VERSION]})
    shown = run("lineage", "chat").stdout
    assert "finery.job: tune-1" in shown
    assert "rows: 37" in shown
    told = json.loads(run("lineage", "chat", "--json").stdout)
    assert told["finery.lineage"] == {"data": {"rows": 37}}


@pytest.mark.parametrize("text", ["chat", "chat:2", "azureml:chat:2", "chat@latest"])
def test_a_model_is_said_in_several_ways(script: Script, text: str) -> None:
    script.on("GET /models/chat/versions", {"value": [VERSION]})
    script.on("GET /models/chat/versions/2", VERSION)
    assert model_id(service_on(script), text) == VERSION["id"]


def test_an_id_is_taken_as_it_is(script: Script) -> None:
    for text in (VERSION["id"], "azureml://registries/azureml/models/m/versions/1"):
        assert model_id(service_on(script), text) == text
    assert script.asked == []

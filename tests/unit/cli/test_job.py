"""`finery job`: start from a recipe or an Azure ML file, follow, look, stop, download."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripted_service import WORKSPACE, Script
from typer.testing import CliRunner

from finery.cli import job_files
from finery.cli.job import app
from finery.components.spec import load_specs
from finery.errors import FineryError, InputError

JOB = {
    "name": "tune-1",
    "systemData": {"createdAt": "2026-01-02T03:04:05Z"},
    "properties": {
        "jobType": "Pipeline",
        "status": "Completed",
        "experimentName": "finetune",
        "displayName": "tune",
        "outputs": {"trained_model": {"uri": "azureml://jobs/tune-1/outputs/trained_model"}},
    },
}
LOG = "logs/azureml/executionlogs.txt"
PIPELINE_ID = "azureml://registries/azureml/components/chat_completion_pipeline/versions/1"
STORE = {"properties": {"accountName": "here/_blob", "containerName": "box", "endpoint": "local"}}
BLOBS = "/_blob.blob.local/box"


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def service(script: Script, monkeypatch: pytest.MonkeyPatch) -> Script:
    """A service that takes jobs and files."""
    monkeypatch.setattr(job_files, "SECONDS_BETWEEN_LOOKS", 0)
    spec = load_specs()["chat_completion_pipeline"]
    component = {"name": "1", "id": PIPELINE_ID, "properties": {"componentSpec": spec}}
    script.on("GET /components/chat_completion_pipeline/versions", {"value": [component]})
    script.on("GET /datastores/workspaceblobstore", STORE)
    script.on("PUT /tune-1", JOB)
    script.on("GET /tune-1/children", {"value": []})
    script.on("PUT jsonl", None, status=201)
    return script


def _recipe(folder: Path, *lines: str) -> Path:
    (folder / "train.jsonl").write_text('{"messages": []}\n')
    path = folder / "my recipe.yaml"
    path.write_text("\n".join(["train_file_path: train.jsonl", *lines]))
    return path


def _node(script: Script) -> dict[str, Any]:
    properties = script.sent("PUT /jobs/tune-1")["properties"]
    (node,) = properties["jobs"].values()
    return node


def test_a_recipe_becomes_the_registrys_pipeline(service: Script, tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "model: smollm2-135m-instruct", "apply_lora: yes", "seed: 7")
    result = run("create", str(recipe), "--name", "tune-1", "--compute", "big")
    assert result.exit_code == 0, result.output
    node = _node(service)
    assert node["componentId"] == PIPELINE_ID
    literals = {name: one.get("value") for name, one in node["inputs"].items()}
    assert literals["apply_lora"] == "true"
    assert literals["seed"] == "7"
    assert literals["huggingface_id"] == "smollm2-135m-instruct"
    assert literals["compute_finetune"] == literals["compute_model_evaluation"] == "big"
    assert "learning_rate" not in literals  # what the recipe does not say is the component's
    train = node["inputs"]["train_file_path"]
    assert train["job_input_type"] == "uri_file"
    assert re.fullmatch(
        r"azureml://datastores/workspaceblobstore/paths/LocalUpload/[0-9a-f]{32}/train\.jsonl",
        train["uri"],
    )


def test_the_data_is_put_where_the_address_says_once(service: Script, tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "model: smollm2-135m-instruct")
    run("create", str(recipe), "--name", "tune-1")
    put = [r for r in service.asked if r.method == "PUT" and "_blob" in r.url.path]
    assert [r.content for r in put] == [b'{"messages": []}\n']
    assert put[0].url.path.startswith(f"{BLOBS}/LocalUpload/")
    assert put[0].headers["x-ms-blob-type"] == "BlockBlob"
    service.on("HEAD train.jsonl", None)
    service.asked.clear()
    run("create", str(recipe), "--name", "tune-1")
    assert not [r for r in service.asked if r.method == "PUT" and "_blob" in r.url.path]


def test_the_jobs_outputs_are_the_components(service: Script, tmp_path: Path) -> None:
    run("create", str(_recipe(tmp_path, "model: smollm2-135m-instruct")), "--name", "tune-1")
    outputs = {one["value"]: name for name, one in _node(service)["outputs"].items()}
    sent = service.sent("PUT /jobs/tune-1")["properties"]
    assert outputs["${{parent.outputs.trained_model}}"] == "mlflow_model_folder"
    assert sent["outputs"]["trained_model"] == {"jobOutputType": "mlflow_model"}
    spec = load_specs()["chat_completion_pipeline"]["outputs"]
    assert set(outputs.values()) == set(spec)


def test_a_model_of_this_machine_is_uploaded_as_what_it_is(
    service: Script, tiny_llama: Path, tmp_path: Path
) -> None:
    service.on("PUT ", None, status=201)
    service.answers = {"PUT /tune-1": service.answers.pop("PUT /tune-1"), **service.answers}
    recipe = _recipe(tmp_path, f"model: {tiny_llama}")
    result = run("create", str(recipe), "--name", "tune-1")
    assert result.exit_code == 0, result.output
    given = _node(service)["inputs"]["pytorch_model_path"]
    assert given["job_input_type"] == "custom_model"
    assert given["uri"].endswith(f"/{tiny_llama.name}")


def test_what_a_job_cannot_do_is_refused_before_anything_is_sent(
    service: Script, tmp_path: Path
) -> None:
    recipe = _recipe(tmp_path, "model: smollm2-135m-instruct", "num_processes: 2", "device: cpu")
    result = run("create", str(recipe))
    assert isinstance(result.exception, InputError)
    places = sorted(fault.where for fault in result.exception.faults)
    assert places == ["my recipe.yaml:3", "my recipe.yaml:4"]
    assert {r.method for r in service.asked} == {"GET"}


def test_a_recipe_with_faults_names_them_all(service: Script, tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "learnin_rate: 1", "seed: x")
    result = run("create", str(recipe))
    assert isinstance(result.exception, InputError)
    assert len(result.exception.faults) >= 2


def test_where_a_run_would_go_has_no_effect_and_is_said(service: Script, tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "model: smollm2-135m-instruct", "output_dir: here")
    result = run("create", str(recipe), "--name", "tune-1", "--json")
    assert "output_dir has no effect" in result.stderr
    assert json.loads(result.stdout) == JOB


def test_a_name_is_made_that_the_service_takes(service: Script, tmp_path: Path) -> None:
    service.on("PUT ", JOB)
    run("create", str(_recipe(tmp_path, "model: smollm2-135m-instruct")))
    path = [r.url.path for r in service.asked if r.method == "PUT"][-1]
    assert re.fullmatch(r"my-recipe-[0-9a-f]{10}", path.rpartition("/")[2])


def test_the_list_shows_the_newest_first_and_no_more_than_asked(service: Script) -> None:
    more = {"value": [JOB, JOB], "nextLink": f"https://here{WORKSPACE}/jobs?p=2"}
    service.on("GET /jobs", more)
    lines = run("list", "--limit", "3").stdout.splitlines()
    assert len(lines) == 4
    assert lines[1].split()[:3] == ["tune-1", "Pipeline", "Completed"]
    assert len(json.loads(run("list", "--limit", "2", "--json").stdout)) == 2


def test_show_lists_the_steps(service: Script) -> None:
    service.on("GET /jobs/tune-1", JOB)
    times = {"startTimeUtc": "2026-01-02T03:04:05Z", "endTimeUtc": "2026-01-02T03:05:06Z"}
    step = {"runId": "child", "displayName": "finetune", "status": "Completed", **times}
    service.on("GET /tune-1/children", {"value": [step]})
    lines = run("show", "tune-1").stdout.splitlines()
    assert lines[-1].split()[0] == "finetune"
    assert lines[-1].split()[-2:] == ["0:01:01", "child"]
    assert any(line.endswith("azureml://jobs/tune-1/outputs/trained_model") for line in lines)


def _ended(status: str) -> dict[str, Any]:
    return {**JOB, "properties": {**JOB["properties"], "status": status}}


def test_the_log_is_printed_once_and_in_whole_lines(service: Script) -> None:
    service.on("GET /jobs/tune-1", _ended("Running"), _ended("Running"), JOB)
    service.on("GET /runs/tune-1/details", {"logFiles": {LOG: "https://here/log"}})
    service.on("GET /log", b"one\ntw", b"one\ntwo\n", b"one\ntwo\nthree\n")
    result = run("stream", "tune-1")
    assert result.stdout == "one\ntwo\nthree\n"
    assert result.exit_code == 0


def test_only_what_is_new_in_a_log_is_fetched(service: Script) -> None:
    service.on("GET /jobs/tune-1", _ended("Running"), _ended("Running"), JOB)
    service.on("GET /runs/tune-1/details", {"logFiles": {LOG: "https://here/log"}})
    error = {"error": {"code": "InvalidRange", "message": "nothing more"}}
    service.answers["GET /log"] = [
        httpx.Response(200, content=b"one\n"),
        httpx.Response(416, json=error),
        httpx.Response(206, content=b"two\nthe last words"),
    ]
    result = run("stream", "tune-1")
    assert result.exit_code == 0
    assert result.stdout == "one\ntwo\nthe last words\n"
    asked = [r.headers.get("range") for r in service.asked if r.url.path == "/log"]
    assert asked == [None, "bytes=4-", "bytes=4-"]


def test_a_failed_job_fails_the_command_with_its_reason(service: Script) -> None:
    service.on("GET /jobs/tune-1", _ended("Failed"))
    error = {"error": {"code": "UserError", "message": "train.jsonl:3: no messages."}}
    service.on("GET /runs/tune-1/details", {"logFiles": {}, "status": "Failed", "error": error})
    result = run("stream", "tune-1", "--json")
    assert isinstance(result.exception, FineryError)
    assert "Failed" in str(result.exception)
    assert "train.jsonl:3: no messages." in str(result.exception)
    assert result.stdout == ""


def test_cancel_asks_and_says_so(service: Script) -> None:
    service.on("POST /jobs/tune-1/cancel", None, status=202)
    service.on("GET /jobs/tune-1", _ended("CancelRequested"))
    result = run("cancel", "tune-1", "--json")
    assert json.loads(result.stdout)["properties"]["status"] == "CancelRequested"


def _listing(*names: str, marker: str = "") -> bytes:
    blobs = "".join(f"<Blob><Name>{name}</Name></Blob>" for name in names)
    return (
        f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{marker}</NextMarker>"
        "</EnumerationResults>"
    ).encode()


def test_download_brings_outputs_and_logs(service: Script, tmp_path: Path) -> None:
    service.on("GET /jobs/tune-1", JOB)
    service.on("GET /runs/tune-1/details", {"logFiles": {LOG: "https://here/log"}})
    at = "azureml/tune-1/trained_model/"
    service.on("GET /box", _listing(f"{at}MLmodel", marker="m"), _listing(f"{at}data/ü 1.bin"))
    service.on(f"GET {at}MLmodel", b"flavors:")
    service.on(f"GET {at}data/ü 1.bin", b"\0\1")
    service.on("GET /log", b"said\n")
    result = run("download", "tune-1", "--dir", str(tmp_path / "got"))
    assert result.exit_code == 0, result.exception
    assert (tmp_path / "got/trained_model/data/ü 1.bin").read_bytes() == b"\0\1"
    assert (tmp_path / "got" / LOG).read_text() == "said\n"
    assert len(result.stdout.splitlines()) == 3
    again = run("download", "tune-1", "--dir", str(tmp_path / "got"))
    assert "there already" in str(again.exception)


def test_download_refuses_names_that_leave_the_folder(service: Script, tmp_path: Path) -> None:
    service.on("GET /jobs/tune-1", JOB)
    service.on("GET /runs/tune-1/details", {"logFiles": {"../../evil": "https://here/log"}})
    service.on("GET /box", _listing())
    result = run("download", "tune-1", "--dir", str(tmp_path / "got"))
    assert "outside" in str(result.exception)
    assert not (tmp_path / "got").exists()


def test_an_unknown_output_is_named_with_those_there_are(service: Script) -> None:
    service.on("GET /jobs/tune-1", JOB)
    result = run("download", "tune-1", "--output", "model")
    assert "trained_model" in str(result.exception)

"""A job in Azure ML's YAML becomes the body that Azure's own clients send."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scripted_service import WORKSPACE, Script
from typer.testing import CliRunner

from finery.cli.job import app
from finery.errors import InputError

STORE = {"properties": {"accountName": "here/_blob", "containerName": "box", "endpoint": "local"}}
PIPELINE = """\
$schema: https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json
type: pipeline
display_name: Two steps
experiment_name: trial
tags: {number: 3}
settings: {default_compute: azureml:cpu, force_rerun: true}
inputs:
  train: {type: uri_file, path: ./train.jsonl}
  rate: 0.1
outputs:
  model: {type: uri_folder}
jobs:
  first:
    type: command
    component: azureml:prepare:2
    inputs:
      data: ${{parent.inputs.train}}
      rows: 10
    outputs:
      rows: {type: uri_folder}
  second:
    component: azureml:train@latest
    compute: azureml:gpu
    inputs:
      rows: ${{parent.jobs.first.outputs.rows}}
      base: {type: mlflow_model, path: azureml:base:4, mode: download}
    outputs:
      model: ${{parent.outputs.model}}
"""
COMMAND = """\
type: command
command: python main.py ${{inputs.data}}
code: src
environment: azureml:curated:5
environment_variables: {DEPTH: 2}
inputs:
  data: {type: uri_folder, path: azureml://datastores/workspaceblobstore/paths/rows/}
distribution: {type: pytorch, process_count_per_instance: 2}
resources: {instance_count: 1}
limits: {timeout: 60}
"""
OFFER = {
    "blobReferenceForConsumption": {
        "blobUri": "https://here/_blob.blob.local/code-1",
        "credential": {"credentialType": "SAS", "sasUri": "https://here/_blob.blob.local/c?sig=x"},
    }
}


@pytest.fixture
def sent(script: Script, tmp_path: Path) -> Any:
    """Creates the job of a text; its `properties` as sent."""
    script.on("GET /datastores/workspaceblobstore", STORE)
    script.on("GET /components/train/versions", {"value": [{"name": "7"}]})
    script.on("POST /startPendingUpload", OFFER)
    script.on("PUT /jobs/j", {"name": "j", "properties": {"jobType": "Command"}})
    script.on("PUT ", None, status=201)

    def create(text: str, *options: str) -> dict[str, Any]:
        (tmp_path / "train.jsonl").write_text("{}\n")
        (tmp_path / "src" / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / "deep" / "main.py").write_text("print(1)")
        (tmp_path / "src" / "__pycache__").mkdir(exist_ok=True)
        (tmp_path / "src" / "__pycache__" / "main.pyc").write_text("compiled")
        file = tmp_path / "job.yml"
        file.write_text(text)
        result = CliRunner().invoke(app, ["create", str(file), "--name", "j", "--json", *options])
        if result.exception:
            raise result.exception
        return script.sent("PUT /jobs/j")["properties"]

    return create


def test_a_pipelines_inputs_and_outputs_are_in_azures_shape(sent: Any) -> None:
    body = sent(PIPELINE)
    assert (body["jobType"], body["displayName"]) == ("Pipeline", "Two steps")
    assert (body["experimentName"], body["tags"]) == ("trial", {"number": "3"})
    assert body["inputs"]["rate"] == {"jobInputType": "literal", "value": "0.1"}
    assert body["inputs"]["train"]["jobInputType"] == "uri_file"
    assert body["inputs"]["train"]["uri"].endswith("/train.jsonl")
    assert body["outputs"] == {"model": {"jobOutputType": "uri_folder"}}
    assert body["settings"] == {
        **{"force_rerun": True, "default_compute": f"{WORKSPACE}/computes/cpu"}
    }


def test_a_pipelines_steps_name_their_components(sent: Any) -> None:
    first, second = sent(PIPELINE)["jobs"].values()
    assert first["componentId"] == f"{WORKSPACE}/components/prepare/versions/2"
    assert first["inputs"]["data"] == {
        **{"job_input_type": "literal", "value": "${{parent.inputs.train}}"}
    }
    assert first["inputs"]["rows"]["value"] == "10"
    assert first["outputs"] == {"rows": {"job_output_type": "uri_folder"}}
    assert second["componentId"] == f"{WORKSPACE}/components/train/versions/7"
    assert second["computeId"] == f"{WORKSPACE}/computes/gpu"
    assert second["inputs"]["base"] == {
        "job_input_type": "mlflow_model",
        "uri": f"{WORKSPACE}/models/base/versions/4",
        "mode": "Download",
    }
    assert second["outputs"]["model"] == {"type": "literal", "value": "${{parent.outputs.model}}"}


def test_a_command_job_takes_its_code_along(sent: Any, script: Script) -> None:
    body = sent(COMMAND, "--compute", "gpu")
    assert body["environmentId"] == f"{WORKSPACE}/environments/curated/versions/5"
    assert body["environmentVariables"] == {"DEPTH": "2"}
    assert body["computeId"] == f"{WORKSPACE}/computes/gpu"
    assert body["distribution"] == {**{"distributionType": "PyTorch", "processCountPerInstance": 2}}
    assert (body["limits"]["timeout"], body["resources"]) == ("PT60S", {"instanceCount": 1})
    assert body["inputs"]["data"]["uri"].endswith("/paths/rows/")
    assert body["codeId"].startswith(f"{WORKSPACE}/codes/")
    (put,) = [r for r in script.asked if r.method == "PUT" and "/c/" in r.url.path]
    assert put.url.path == "/_blob.blob.local/c/deep/main.py"
    assert put.url.query == b"sig=x"


def test_the_same_code_is_not_sent_again(sent: Any, script: Script) -> None:
    script.on("GET /versions/1", {"name": "1"})
    sent(COMMAND)
    assert not [r for r in script.asked if r.url.path.endswith("startPendingUpload")]


def test_an_environment_written_out_becomes_an_anonymous_one(sent: Any) -> None:
    body = sent("type: command\ncommand: ls\nenvironment: {image: ubuntu}\n")
    assert "/environments/CliV2AnonymousEnvironment/versions/" in body["environmentId"]
    assert body["displayName"] == "job"


FINETUNING = """\
type: finetuning
task: chat_completion
model_provider: custom
model: {type: mlflow_model, path: azureml://registries/azureml/models/Phi-3-mini/versions/1}
training_data: {type: uri_file, path: train.jsonl}
hyperparameters: {num_train_epochs: 1, learning_rate: "0.00002"}
compute: azureml:gpu
outputs:
  registered_model: {type: mlflow_model, name: tuned}
"""


def test_a_finetuning_job_keeps_its_own_shape(sent: Any) -> None:
    body = sent(FINETUNING)
    details = body["fineTuningDetails"]
    assert (body["jobType"], details["taskType"]) == ("FineTuning", "chatCompletion")
    assert details["modelProvider"] == "Custom"
    assert details["hyperParameters"] == {"num_train_epochs": "1", "learning_rate": "0.00002"}
    assert details["model"]["uri"].endswith("/Phi-3-mini/versions/1")
    assert details["trainingData"]["uri"].endswith("/train.jsonl")
    assert "validationData" not in details
    assert body["outputs"]["registered_model"] == {
        **{"jobOutputType": "mlflow_model", "assetName": "tuned"}
    }
    assert body["computeId"] == f"{WORKSPACE}/computes/gpu"


def test_options_win_over_the_file(sent: Any) -> None:
    assert sent(PIPELINE, "--experiment", "other")["experimentName"] == "other"


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("type: sweep\n", ["type"]),
        ("type: command\ncomand: ls\ncode: nowhere\n", ["comand", "command", "code"]),
        ("type: pipeline\n", ["jobs"]),
        (
            "type: finetuning\nmodel: {type: mlflow_model, path: no}\ninputs: {}",
            ["model", "training_data", "inputs"],
        ),
        (
            "type: pipeline\njobs: {a: {component: ./own.yml, imputs: {}}}\n",
            ["component", "imputs"],
        ),
        (
            "type: command\ncommand: ls\ninputs: {a: {type: uri_file, path: no}, b: [1]}\n",
            ["a", "b"],
        ),
    ],
)
def test_every_fault_is_named_and_nothing_is_sent(
    sent: Any, script: Script, text: str, places: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        sent(text)
    found = [fault.where.replace(":", ".").split(".")[-1] for fault in error.value.faults]
    assert sorted(found) == sorted(places)
    assert script.asked == []

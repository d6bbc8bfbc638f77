"""Fine-tuning jobs, which run the chat-completion pipeline."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from bodies_of_sdk import CHATS, faults_of, job_of, sent, steps_of, workspace_in

from finery.jobs.spec import Asset, StepOutput, Value
from finery.workspace import assets
from finery.workspace.asset import Asset as Version
from finery.workspace.errors import NotImplementedHereError
from finery.workspace.place import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """One whose data asset is a file, as fine-tuning takes it."""
    made = workspace_in(tmp_path)
    assets.put(made, Version("data", "", "rows", "1", type="uri_file", path=f"{CHATS}.jsonl"))
    return made


def details(**changes: Any) -> dict[str, Any]:
    """The details of the SDK's job, with the rows of this workspace."""
    found = copy.deepcopy(sent("finetuning")["body"]["properties"]["fineTuningDetails"])
    rows = {"uri": "azureml:rows:1", "jobInputType": "uri_file"}
    return found | {"trainingData": rows, "validationData": rows} | changes


def test_a_finetuning_job_is_the_steps_of_the_pipeline(workspace: Workspace) -> None:
    job = job_of(workspace, "finetuning", fineTuningDetails=details())
    assert job.type == "finetuning"
    steps = steps_of(job)
    assert "chat_completion_finetune" in steps
    finetune = steps["chat_completion_finetune"]
    assert finetune.entry == "finery:chat_completion_finetune"
    assert finetune.inputs["num_train_epochs"] == Value("1")
    assert finetune.inputs["learning_rate"] == Value("0.00002")
    assert finetune.inputs["apply_lora"] == Value("true")  # as in Azure's fine-tuning jobs
    validated = steps["ft_nlp_common_validation"].inputs
    assert validated["train_file_path"] == Asset("azureml:rows:1", "uri_file")
    assert validated["validation_file_path"] == Asset("azureml:rows:1", "uri_file")
    model = "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/15"
    assert validated["mlflow_model_path"] == Asset(model, "mlflow_model")


def test_the_tuned_model_is_registered_under_the_asked_name(workspace: Workspace) -> None:
    job = job_of(workspace, "finetuning", fineTuningDetails=details())
    source = job.outputs["registered_model"]
    assert isinstance(source, StepOutput)
    written = job.step(source.step).outputs[source.output]
    assert (written.name, written.type) == ("tuned-model", "mlflow_model")


def test_a_compute_is_that_of_every_step(workspace: Workspace) -> None:
    job = job_of(workspace, "finetuning", fineTuningDetails=details(), computeId="cpu-cluster")
    assert {step.compute for step in job.steps} == {"cpu-cluster"}


def test_wrong_hyperparameters_are_named_at_their_place(workspace: Workspace) -> None:
    wrong = details(hyperParameters={"num_train_epochs": "0", "learnign_rate": "1"})
    faults = faults_of(workspace, "finetuning", fineTuningDetails=wrong)
    place = "fineTuningDetails.hyperParameters"
    assert set(faults) == {f"{place}.num_train_epochs", f"{place}.learnign_rate"}
    assert faults[f"{place}.learnign_rate"].remedy == "Did you mean learning_rate?"


def test_a_model_and_training_data_are_required(workspace: Workspace) -> None:
    none = details(model=None, trainingData=None)
    faults = faults_of(workspace, "finetuning", fineTuningDetails=none)
    assert {"fineTuningDetails.model", "fineTuningDetails.trainingData"} <= set(faults)


def test_data_that_is_not_there_is_named_at_its_place(workspace: Workspace) -> None:
    gone = details(validationData={"uri": "azureml:gone:1", "jobInputType": "uri_file"})
    faults = faults_of(workspace, "finetuning", fineTuningDetails=gone)
    assert set(faults) == {"fineTuningDetails.validationData"}


def test_other_outputs_than_the_model_are_refused(workspace: Workspace) -> None:
    outputs = {"other": {"jobOutputType": "uri_folder"}}
    faults = faults_of(workspace, "finetuning", fineTuningDetails=details(), outputs=outputs)
    assert set(faults) == {"outputs.other"}


@pytest.mark.parametrize(
    "change", [{"taskType": "imageClassification"}, {"modelProvider": "Other"}]
)
def test_tasks_and_providers_that_finery_has_not_are_not_implemented(
    workspace: Workspace, change: dict[str, str]
) -> None:
    with pytest.raises(NotImplementedHereError):
        job_of(workspace, "finetuning", fineTuningDetails=details(**change))

"""The body of a fine-tuning job as a use of the chat-completion pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from finery.components.finetuning_job import TASKS, pipeline_inputs
from finery.errors import Fault
from finery.jobs.declared import compute_name
from finery.jobs.nodes import read_inputs, text_of
from finery.jobs.spec import Asset, Output, Value
from finery.workspace.errors import NotImplementedHereError

MODEL_OUTPUT = "mlflow_model_folder"  # of the pipeline
REGISTERED = "registered_model"  # the same, of the job
DETAILS = "fineTuningDetails"
HYPERPARAMETERS = f"{DETAILS}.hyperParameters"
# Where in the body the pipeline's inputs come from.
PLACES = {
    "mlflow_model_path": f"{DETAILS}.model",
    "train_file_path": f"{DETAILS}.trainingData",
    "train_mltable_path": f"{DETAILS}.trainingData",
    "validation_file_path": f"{DETAILS}.validationData",
    "validation_mltable_path": f"{DETAILS}.validationData",
}
_STEPS = ("model_import", "preprocess", "finetune", "model_evaluation")  # compute_…


@dataclass(frozen=True)
class FineTuning:
    """What a fine-tuning job gives the pipeline, and what it does with the model."""

    inputs: Mapping[str, Value | Asset]
    model: Output


def place_in_body(fault: Fault) -> Fault:
    """A fault of one of the pipeline's inputs, at the place in the body that it comes from."""
    name = fault.where.removeprefix("inputs.")
    if name == fault.where:
        return fault
    return replace(fault, where=PLACES.get(name, f"{HYPERPARAMETERS}.{name}"))


def fine_tuning(
    properties: Mapping[str, Any], outputs: Mapping[str, Output], faults: list[Fault]
) -> FineTuning:
    """What a fine-tuning job asks for; what is wrong with its body goes to `faults`.

    Raises NotImplementedHereError for a task, or a provider of models, that finery has not.
    """
    details = _mapping(properties, DETAILS, faults)
    task = str(details.get("taskType") or "")
    if task.lower() not in TASKS:
        raise NotImplementedHereError(f"finery fine-tunes for ChatCompletion, not for {task!r}.")
    provider = str(details.get("modelProvider") or "Custom")
    if provider.lower() != "custom":
        text = f"finery trains models of the provider Custom; {provider} trains its own."
        raise NotImplementedHereError(text)
    hyperparameters = _mapping(details, "hyperParameters", faults, HYPERPARAMETERS)
    given = {key: text_of(value) for key, value in hyperparameters.items() if value is not None}
    inputs: dict[str, Value | Asset] = {
        name: Value(text) for name, text in pipeline_inputs(task, given).items()
    }
    inputs |= _data(details, faults)
    if compute := compute_name(str(properties.get("computeId") or "")):
        inputs |= {f"compute_{step}": Value(compute) for step in _STEPS}
    for name in set(outputs) - {REGISTERED}:
        faults.append(Fault(f"outputs.{name}", name, f"the output {REGISTERED}, no other"))
    return FineTuning(inputs, outputs.get(REGISTERED, Output("mlflow_model")))


def _data(details: Mapping[str, Any], faults: list[Fault]) -> dict[str, Value | Asset]:
    """The base model and the conversations, under the names of the pipeline's inputs."""
    said = {key: details.get(key) for key in ("model", "trainingData", "validationData")}
    read = read_inputs(said, DETAILS, faults)
    for key in ("model", "trainingData"):
        if said[key] is None:
            faults.append(Fault(f"{DETAILS}.{key}", "nothing", "a reference, required"))
    inputs = {}
    for key, given in read.items():
        kind = given.type if isinstance(given, Asset) else "a literal"
        form = "mltable_path" if kind == "mltable" else "file_path"
        name = {
            "model": "mlflow_model_path",
            "trainingData": f"train_{form}",
            "validationData": f"validation_{form}",
        }[key]
        inputs[name] = given
    return inputs


def _mapping(
    body: Mapping[str, Any], key: str, faults: list[Fault], where: str = ""
) -> Mapping[str, Any]:
    value = body.get(key)
    if isinstance(value, Mapping):
        return value
    if value is not None or not where:
        faults.append(Fault(where or key, type(value).__name__, "a mapping"))
    return {}

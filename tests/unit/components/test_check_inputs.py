"""Inputs of a job against a component: every fault at once, at its place, before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from finery.components.finetuning_job import DEFAULTS, pipeline_inputs
from finery.components.spec import PIPELINE, check_inputs, load_specs
from finery.errors import InputError

WHERE = "jobs.p.inputs"
DATA = ("mlflow_model_path", "train_file_path")
# What the Phi-3 walkthrough sends: text for every literal, integers for string enums.
WALKTHROUGH = {
    "apply_deepspeed": "true",
    "deepspeed_stage": "2",
    "apply_lora": "true",
    "apply_ort": "false",
    "precision": "16",
    "ignore_mismatched_sizes": "false",
    "num_train_epochs": "1",
    "per_device_train_batch_size": "1",
    "learning_rate": "5e-06",
    "lr_scheduler_type": "cosine",
    "save_total_limit": "1",
    "number_of_gpu_to_use_finetuning": "8",
    "compute_finetune": "gpu-cluster-big",
}
OWN: dict[str, Any] = {
    "name": "own",
    "inputs": {
        "rows": {"type": "integer", "min": 1, "max": 9},
        "rate": {"type": "number", "optional": True},
        "flag": {"type": "boolean", "default": False},
        "size": {"type": "string", "enum": ["small", "large"], "optional": True},
        "level": {"type": "string", "enum": [1, 2], "optional": True},
        "data": {"type": "uri_folder"},
        "more": {"type": "group", "optional": True},
    },
}


def faults(literals: Mapping[str, str], given: Collection[str] = DATA) -> dict[str, str]:
    found = check_inputs(load_specs()[PIPELINE], literals, given, WHERE)
    assert len({fault.where for fault in found}) == len(found)
    return {fault.where.removeprefix(WHERE + "."): str(fault) for fault in found}


def own(literals: Mapping[str, str], given: Collection[str] = ("data",)) -> dict[str, str]:
    found = check_inputs(OWN, {"rows": "3", **literals}, given, "")
    return {fault.where: str(fault) for fault in found}


def test_what_the_walkthrough_sends_is_right() -> None:
    assert faults(WALKTHROUGH) == {}


def test_every_fault_is_told_at_once_and_at_its_place() -> None:
    wrong = {
        **WALKTHROUGH,
        "learning_rate": "-1",
        "deepspeed_stage": "4",
        "lora_alfa": "3",
        "num_train_epochs": "0",
        "train_mltable_path": "some/folder",
    }
    assert faults(wrong).keys() == {
        "learning_rate",
        "deepspeed_stage",
        "lora_alfa",
        "num_train_epochs",
        "train_mltable_path",
    }


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("lora_alfa", "1", "Did you mean lora_alpha?"),
        ("epochs", "1", "Did you mean num_train_epochs?"),
        ("deepspeed_stage", "4", "expected one of '2', '3'"),
        ("precision", "bf16", "expected one of '32', '16'"),
        ("learning_rate", "0", "above 0"),
        ("learning_rate", "fast", "a finite number"),
        ("learning_rate", "nan", "a finite number"),
        ("num_train_epochs", "1.5", "an integer of at least 1"),
        ("num_nodes_finetune", "0", "at least 1"),
        ("apply_lora", "yes", "expected one of 'true', 'false'"),
        ("lora_dropout", "1", "below 1"),
        ("metric_for_best_model", "f1", "'loss', the metric that is computed for chat"),
        ("evaluation_strategy", "no", "one of 'epoch', 'steps', 'disable'"),
    ],
)
def test_a_wrong_value_says_what_is_right(name: str, value: str, says: str) -> None:
    found = faults({**WALKTHROUGH, name: value})
    assert list(found) == [name]
    assert says in found[name]


@pytest.mark.parametrize(
    ("name", "value"),
    [("adam_epsilon", "1e-8"), ("apply_lora", "True"), ("max_steps", "5.0")],
)
def test_a_value_may_be_written_as_clients_write_it(name: str, value: str) -> None:
    assert faults({**WALKTHROUGH, name: value}) == {}


@pytest.mark.parametrize(
    ("literals", "place"),
    [
        ({"auto_find_batch_size": "true"}, "auto_find_batch_size"),
        ({"apply_early_stopping": "true", "evaluation_strategy": "disable"}, None),
        ({"huggingface_id": "microsoft/phi"}, None),
        ({"logging_steps": "0"}, "logging_steps"),
    ],
)
def test_a_combination_that_is_refused_late_elsewhere_is_refused_here(
    literals: dict[str, str], place: str | None
) -> None:
    found = faults({**WALKTHROUGH, **literals})
    assert len(found) == 1
    assert place is None or list(found) == [place]


def test_no_model_is_said_in_the_names_of_the_pipeline() -> None:
    found = faults(WALKTHROUGH, ["train_file_path"])
    assert "Give mlflow_model_path, pytorch_model_path or huggingface_id" in str(found)
    assert list(found) == ["mlflow_model_path"]


def test_no_training_data_is_a_fault_whatever_form_it_could_have() -> None:
    assert list(faults(WALKTHROUGH, ["mlflow_model_path"])) == ["train_file_path"]
    assert faults(WALKTHROUGH, ["mlflow_model_path", "train_mltable_path"]) == {}


def test_a_binding_is_not_read_as_a_value_and_no_rule_guesses_it() -> None:
    bound = {
        **WALKTHROUGH,
        "apply_deepspeed": "${{parent.inputs.sharded}}",
        "learning_rate": "${{parent.inputs.rate}}",
        "auto_find_batch_size": "true",
    }
    assert faults(bound) == {}
    assert "lora_alfa" in faults({**bound, "lora_alfa": "${{parent.inputs.a}}"})


def test_data_in_place_of_a_value_is_a_fault() -> None:
    assert "expected a plain integer" in faults(WALKTHROUGH, [*DATA, "seed"])["seed"]


def test_any_component_is_checked_by_what_it_declares() -> None:
    assert own({}) == {}
    assert own({"rows": "10"}).keys() == {"rows"}
    assert own({"rows": "10"})["rows"].endswith("an integer of at least 1 and at most 9.")
    assert own({"rate": "1e-3", "flag": "TRUE", "size": "large", "level": "2"}) == {}
    wrong = own({"rate": "x", "flag": "1", "size": "larg", "level": "3"})
    assert wrong.keys() == {"rate", "flag", "size", "level"}
    assert "Did you mean 'large'?" in wrong["size"]


def test_what_is_required_has_to_be_given() -> None:
    found = check_inputs(OWN, {}, [], "")
    assert [fault.where for fault in found] == ["rows", "data"]


def test_fields_of_a_group_belong_to_it() -> None:
    assert own({"more.anything": "1"}) == {}
    assert own({"less.anything": "1"}).keys() == {"less.anything"}


def test_a_component_of_another_name_is_not_held_to_our_ranges() -> None:
    spec = {"name": "own", "inputs": {"learning_rate": {"type": "number"}}}
    assert check_inputs(spec, {"learning_rate": "-1"}, [], "") == []


def test_a_fine_tuning_job_trains_an_adapter_unless_it_says_otherwise() -> None:
    inputs = pipeline_inputs("ChatCompletion", {"num_train_epochs": "1", "lora_r": "16"})
    assert inputs == {**DEFAULTS, "num_train_epochs": "1", "lora_r": "16"}
    assert faults(inputs) == {}
    assert pipeline_inputs("chat_completion", {"apply_lora": "false"})["apply_lora"] == "false"


def test_a_fine_tuning_job_of_another_task_is_refused() -> None:
    with pytest.raises(InputError, match="task: found 'TextCompletion'"):
        pipeline_inputs("TextCompletion", {})


def test_hyperparameters_are_checked_like_inputs() -> None:
    assert faults(pipeline_inputs("ChatCompletion", {"learning_rate": "0.00002"})) == {}
    found = faults(pipeline_inputs("ChatCompletion", {"learning_rate": "0", "epochs": "1"}))
    assert found.keys() == {"epochs", "learning_rate"}

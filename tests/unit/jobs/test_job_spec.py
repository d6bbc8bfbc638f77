"""Specifications as JSON: nothing is lost on the way through the store."""

from __future__ import annotations

import json

import pytest

from finery.jobs.spec import (
    Asset,
    JobSpec,
    Output,
    StepOutput,
    StepSpec,
    Value,
    job_from_json,
    job_to_json,
)

SPEC = JobSpec(
    "job",
    "pipeline",
    (
        StepSpec(
            "import", entry="finery:import", inputs={"m": Asset("azureml:m:1", "mlflow_model")}
        ),
        StepSpec(
            "tune/finetune",
            display_name="Finetune",
            command="echo ${{inputs.model}}",
            code="azureml:code:1",
            inputs={"model": StepOutput("import", "out"), "lora_r": Value("8")},
            outputs={"out": Output("uri_folder", mode="Upload")},
            environment_variables={"A": "b"},
            compute="gpu",
            instance_count=2,
            process_count=8,
            deterministic=False,
        ),
    ),
    experiment="e",
    tags={"t": "1"},
    inputs={"data": Asset("azureml:d:1", "uri_file", "ro_mount")},
    outputs={"model": StepOutput("tune/finetune", "out"), "own": Output("uri_file", name="n")},
    force_rerun=True,
    services={"Studio": {"endpoint": "x"}},
    wire={"properties": {"jobType": "Pipeline"}},
)


def test_a_specification_survives_json() -> None:
    assert job_from_json(json.loads(json.dumps(job_to_json(SPEC)))) == SPEC


def test_a_step_waits_for_the_steps_it_reads() -> None:
    assert SPEC.step("tune/finetune").reads == {"import"}
    assert SPEC.step("import").reads == frozenset()


def test_a_step_is_called_by_the_last_word_of_its_path() -> None:
    assert [step.name for step in SPEC.steps] == ["import", "finetune"]


def test_there_is_no_step_at_another_path() -> None:
    with pytest.raises(KeyError):
        SPEC.step("finetune")

"""What is refused before anything is written, all of it in one pass."""

from __future__ import annotations

import pytest

from finery.errors import InputError
from finery.jobs.check import check_spec
from finery.jobs.spec import JobSpec, Output, StepOutput, StepSpec

OUT = {"out": Output("uri_folder")}


def faults(*steps: StepSpec, **more: object) -> list[str]:
    given = {"name": "job", "type": "pipeline"} | more
    try:
        check_spec(JobSpec(steps=steps, **given))  # pyright: ignore
    except InputError as error:
        return [str(fault) for fault in error.faults]
    return []


def reads(path: str, *others: str) -> StepSpec:
    inputs = {f"from_{other}": StepOutput(other, "out") for other in others}
    return StepSpec(path, command="echo", inputs=inputs, outputs=OUT)


def test_a_sound_pipeline_passes() -> None:
    assert faults(reads("a"), reads("b", "a"), reads("c/d", "a", "b")) == []


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "x" * 256, "a\n", "-a"])
def test_names_that_could_not_be_folders_are_refused(name: str) -> None:
    assert len(faults(reads("a"), name=name)) == 1


@pytest.mark.parametrize("path", ["../a", "a//b", "/a", "a/..", "a b", ""])
def test_paths_of_steps_that_could_lead_elsewhere_are_refused(path: str) -> None:
    assert faults(reads(path))


@pytest.mark.parametrize("name", ["..", ".x", "a/b", "", "a\0"])
def test_outputs_that_could_lead_elsewhere_are_refused(name: str) -> None:
    step = StepSpec("a", command="echo", outputs={name: Output("uri_folder")})
    assert faults(step)
    assert faults(reads("a"), outputs={name: StepOutput("a", "out")})


def test_a_step_of_a_step_that_is_not_there_names_the_nearest() -> None:
    (fault,) = faults(reads("prepare"), reads("train", "prepar"))
    assert "train.inputs.from_prepar" in fault
    assert "Did you mean prepare?" in fault


def test_an_output_that_the_step_does_not_have_is_refused() -> None:
    spec = {"final": StepOutput("a", "model")}
    (fault,) = faults(reads("a"), outputs=spec)
    assert "an output of step a" in fault


def test_steps_that_wait_for_each_other_are_refused() -> None:
    (fault,) = faults(reads("a", "b"), reads("b", "a"))
    assert "a circle" in fault


def test_two_steps_at_one_path_are_refused() -> None:
    assert any("twice" in fault for fault in faults(reads("a"), reads("a")))


def test_a_step_runs_a_command_or_an_entry() -> None:
    assert len(faults(StepSpec("a"), StepSpec("b", command="x", entry="finery:x"))) == 2
    assert faults(StepSpec("a", entry="os:system"))


def test_a_command_job_is_one_step_without_a_path() -> None:
    assert faults(StepSpec("", command="echo"), type="command") == []
    assert faults(StepSpec("a", command="echo"), type="command")


def test_a_job_without_steps_is_refused() -> None:
    assert faults()


def test_every_fault_is_said_at_once() -> None:
    assert len(faults(StepSpec("a b"), reads("c", "x"), name="..", type="magic")) == 5

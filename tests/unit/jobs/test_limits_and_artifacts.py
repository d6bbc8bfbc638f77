"""Time limits of steps, and what a command leaves in ./outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from finery.errors import Fault
from finery.jobs.declared import seconds_of
from finery.jobs.job import artifacts
from finery.jobs.spec import Output, StepOutput, StepSpec

Step = Callable[..., StepSpec]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0),
        ("PT5M", 300),
        ("PT1H30M", 5400),
        ("PT1M40S", 100),
        ("P1DT1S", 86401),
        ("PT0.5S", 1),
        ("3600", 3600),
    ],
)
def test_durations_are_read_as_clients_write_them(text: str, seconds: int) -> None:
    faults: list[Fault] = []
    assert seconds_of(text, "limits.timeout", faults) == seconds
    assert faults == []


@pytest.mark.parametrize("text", ["P", "PT", "soon", "-5", "PT5X", "5 minutes"])
def test_what_is_no_duration_is_a_fault(text: str) -> None:
    faults: list[Fault] = []
    seconds_of(text, "limits.timeout", faults)
    assert [fault.where for fault in faults] == ["limits.timeout"]


def test_a_step_that_runs_too_long_is_ended_and_says_why(server: Any, step: Step) -> None:
    job = server.run(step("", "echo on; sleep 60", timeout_seconds=1))
    assert job.status == "Failed"
    assert "longer than its limit of 1 seconds" in job.error["message"]


def test_a_step_within_its_limit_completes(server: Any, step: Step) -> None:
    assert server.run(step("", "true", timeout_seconds=600)).status == "Completed"


def test_what_a_command_puts_into_outputs_is_kept_with_its_logs(server: Any, step: Step) -> None:
    job = server.run(step("", "echo hello > ./outputs/hello.txt"))
    assert job.status == "Completed"
    kept = artifacts(server.workspace, job.name) / "outputs" / "hello.txt"
    assert kept.read_text() == "hello\n"


def test_the_artifacts_of_a_step_can_be_read_by_another(server: Any, step: Step) -> None:
    made = step("a", "echo hi > ./outputs/f", outputs={"artifacts": Output("uri_folder")})
    read = step(
        "b",
        "cat ${{inputs.x}}/outputs/f > ${{outputs.out}}/g",
        {"x": StepOutput("a", "artifacts")},
    )
    job = server.run(made, read, outputs={"final": StepOutput("b", "out")})
    assert job.status == "Completed", job.error
    place = server.workspace.job_outputs(job.name) / "final" / "g"
    assert place.read_text() == "hi\n"

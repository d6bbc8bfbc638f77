"""Outputs with a name are models and data assets once their step has completed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from finery.jobs.registration import register_outputs
from finery.jobs.spec import Output, StepSpec
from finery.workspace import assets
from finery.workspace.asset import Asset
from finery.workspace.errors import NotFoundError

Step = Callable[..., StepSpec]
WRITE = "echo x > ${{outputs.out}}/f"


def named(kind: str, name: str, version: str = "") -> dict[str, Any]:
    return {"outputs": {"out": Output(kind, name=name, version=version)}}


def test_a_folder_becomes_the_next_version_of_a_data_asset(server: Any, step: Step) -> None:
    for _ in range(2):
        job = server.run(step("", WRITE, **named("uri_folder", "rows")))
        assert job.status == "Completed"
    found = assets.versions(server.workspace, "data", "", "rows")
    assert [asset.version for asset in found] == ["2", "1"]
    assert found[0].type == "uri_folder"
    assert found[0].path.endswith(f"/azureml/{job.name}/out")


def test_a_model_carries_where_it_comes_from(server: Any, step: Step) -> None:
    job = server.run(step("", WRITE, **named("custom_model", "tuned", "7")))
    model = assets.get(server.workspace, "model", "", "tuned", "7")
    assert model.spec["jobName"] == job.name
    assert model.properties["job"] == job.name


def test_a_version_that_is_taken_fails_the_step(server: Any, step: Step) -> None:
    there = Asset(
        "data", "", "taken", "1", type="uri_folder", path="azureml://datastores/d/paths/p"
    )
    assets.put(server.workspace, there)
    job = server.run(step("", WRITE, **named("uri_folder", "taken", "1")))
    assert job.status == "Failed"
    assert "taken, version 1" in job.error["message"]


def test_an_output_is_registered_once_however_often_it_is_said(server: Any, step: Step) -> None:
    job = server.run(step("", WRITE, **named("uri_folder", "again")))
    register_outputs(server.workspace, job.name)
    assert len(assets.versions(server.workspace, "data", "", "again")) == 1


def test_a_step_that_failed_registers_nothing(server: Any, step: Step) -> None:
    job = server.run(step("", "false", **named("uri_folder", "never")))
    assert job.status == "Failed"
    with pytest.raises(NotFoundError):
        assets.get(server.workspace, "data", "", "never", "1")


def test_a_reused_step_registers_its_outputs_as_well(server: Any, step: Step) -> None:
    server.run(step("a", WRITE))
    job = server.run(step("a", WRITE, **named("uri_folder", "reused")))
    assert server.steps(job)["a"].reuse["from"]
    assert assets.get(server.workspace, "data", "", "reused", "1")

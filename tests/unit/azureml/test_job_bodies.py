"""From what the SDK sends to the job that runs, and everything that is refused at once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from bodies_of_sdk import faults_of, job_of, sent, steps_of, workspace_in

from finery.azureml.job_bodies import job_spec
from finery.errors import InputError
from finery.jobs.spec import Asset, Output, StepOutput, Value
from finery.workspace.errors import NotImplementedHereError
from finery.workspace.place import Workspace

LONG = "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/workspaceblobstore"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return workspace_in(tmp_path)


def test_a_command_job_is_one_step(workspace: Workspace) -> None:
    job = job_of(workspace, "command")
    assert (job.name, job.type, job.experiment) == ("a_command", "command", "commands")
    assert (job.display_name, job.description) == ("A command", "says hello")
    assert job.tags == {"k": "v"}
    assert job.wire == sent("command")["body"]["properties"]
    (step,) = job.steps
    assert step.path == ""
    assert step.command == "python run.py ${{inputs.rate}} ${{inputs.data}} ${{outputs.made}}"
    assert step.inputs == {
        "rate": Value("1.5"),
        "flag": Value("True"),
        "data": Asset(f"{LONG}/paths/LocalUpload/h/chats.jsonl", "uri_file", "Download"),
    }
    assert step.outputs["made"].name == "made_asset"
    assert step.code.endswith("/codes/snapshot/versions/1")
    assert step.compute == "cpu-cluster"
    assert (step.instance_count, step.process_count) == (1, 2)
    assert step.environment_variables == {"GREETING": "hello"}
    assert step.deterministic is False


def test_a_pipeline_is_its_nodes_with_their_components(workspace: Workspace) -> None:
    job = job_of(workspace, "pipeline")
    assert (job.type, job.force_rerun, job.continue_on_step_failure) == ("pipeline", True, True)
    steps = steps_of(job)
    assert list(steps) == ["first", "second"]
    first, second = steps.values()
    assert first.inputs == {
        "data": Asset(
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/"
            "workspaces/w/data/chats/versions/1",
            "uri_folder",
            "ReadOnlyMount",
        ),
        "rate": Value("0.5"),
        "epochs": Value("2"),
        "kind": Value("b"),
    }
    assert first.outputs["model"].uri.endswith("/paths/m/${{name}}/")
    assert first.environment_variables == {"GREETING": "hello"}
    assert (first.display_name, first.compute) == ("First", "cpu-cluster")
    assert "--note" not in first.command
    assert second.inputs == {"model": StepOutput("first", "model")}
    assert second.deterministic is False
    assert job.outputs == {"report": StepOutput("second", "report")}
    assert second.outputs["report"] == Output("uri_file", mode="Upload")


def test_pipelines_inside_a_pipeline_become_its_steps(workspace: Workspace) -> None:
    job = job_of(workspace, "nested")
    steps = steps_of(job)
    assert set(steps) == {"one/first", "one/second", "two/first", "two/second", "last"}
    assert steps["one/first"].inputs["rate"] == Value("0.1")
    assert steps["two/first"].inputs["rate"] == Value("0.2")
    assert steps["one/first"].compute == ""
    assert steps["last"].compute == "cpu-cluster"
    assert steps["last"].inputs == {"model": StepOutput("one/first", "model")}
    assert job.outputs["best"] == StepOutput("two/first", "model")


def test_a_body_of_a_type_that_finery_does_not_run_is_not_implemented(workspace: Workspace) -> None:
    for kind in ("Sweep", "AutoML", "Spark", None):
        with pytest.raises(NotImplementedHereError, match="Pipeline, Command, FineTuning"):
            job_spec(workspace, "j", {"properties": {"jobType": kind}})


@pytest.mark.parametrize("body", [{}, {"properties": None}, {"properties": []}])
def test_a_body_without_properties_is_refused(workspace: Workspace, body: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        job_spec(workspace, "j", body)


@pytest.mark.parametrize("name", ["..", "a/b", "", ".a", "-a", "a" * 256, "a b"])
def test_a_name_that_could_be_no_folder_is_refused(workspace: Workspace, name: str) -> None:
    body = sent("command")["body"]
    with pytest.raises(InputError) as refused:
        job_spec(workspace, name, body)
    assert [fault.where for fault in refused.value.faults] == ["name"]


def test_everything_wrong_with_a_command_job_comes_at_once(workspace: Workspace) -> None:
    gone = {"uri": f"{LONG}/paths/gone.jsonl", "jobInputType": "uri_file"}
    faults = faults_of(
        workspace,
        "command",
        inputs={"data": gone, "../x": {"jobInputType": "literal", "value": "1"}},
        outputs={
            "made": {"jobOutputType": "uri_folder", "uri": "azureml://datastores/gone/paths/x"}
        },
        codeId="/subscriptions/s/resourceGroups/g/workspaces/w/codes/gone/versions/1",
        computeId="/subscriptions/s/resourceGroups/g/workspaces/w/computes/gone",
        resources={"instanceCount": 0},
        tags=["x"],
    )
    assert set(faults) == {
        "inputs.data",
        "inputs.../x",
        "outputs.made",
        "code",
        "compute",
        "resources.instanceCount",
        "command",
        "tags",
    }
    assert "inputs.rate" in faults["command"].found


def test_everything_wrong_with_a_pipeline_comes_at_once(workspace: Workspace) -> None:
    whole = sent("pipeline")
    jobs = copy.deepcopy(whole["body"]["properties"]["jobs"])
    jobs["first"]["inputs"]["epochs"] = {"job_input_type": "literal", "value": "10"}
    jobs["first"]["inputs"]["kind"] = {"job_input_type": "literal", "value": "c"}
    jobs["first"]["computeId"] = "gone-cluster"
    jobs["second"]["inputs"] = {"modle": jobs["second"]["inputs"]["model"]}
    jobs["third"] = {"type": "sweep", "name": "third"}
    settings = {"default_compute": "also-gone", "on_init": "first"}
    faults = faults_of(workspace, "pipeline", jobs=jobs, settings=settings)
    assert set(faults) == {
        "jobs.first.inputs.epochs",
        "jobs.first.inputs.kind",
        "jobs.first.compute",
        "jobs.second.inputs.modle",
        "jobs.second.inputs.model",
        "jobs.second.compute",
        "jobs.third.type",
        "settings.on_init",
    }


def test_data_that_leads_out_of_the_workspace_is_refused(workspace: Workspace) -> None:
    for uri in ("file:///etc/passwd", "/etc/passwd", f"{LONG}/paths/../../../../etc/passwd"):
        data = {"uri": uri, "jobInputType": "uri_file"}
        inputs = sent("command")["body"]["properties"]["inputs"] | {"data": data}
        assert set(faults_of(workspace, "command", inputs=inputs)) == {"inputs.data"}


def test_an_output_outside_the_datastores_is_refused(workspace: Workspace) -> None:
    for uri in ("/etc", "azureml://datastores/workspaceblobstore/paths/../../../x", "file:///tmp"):
        outputs = {"made": {"jobOutputType": "uri_folder", "uri": uri}}
        assert set(faults_of(workspace, "command", outputs=outputs)) == {"outputs.made"}


def test_a_file_is_no_folder_and_a_folder_no_file(workspace: Workspace) -> None:
    inputs = sent("command")["body"]["properties"]["inputs"]
    for uri, kind in (("LocalUpload/h/chats.jsonl", "uri_folder"), ("LocalUpload/h", "uri_file")):
        data = {"uri": f"{LONG}/paths/{uri}", "jobInputType": kind}
        assert set(faults_of(workspace, "command", inputs=inputs | {"data": data})) == {
            "inputs.data"
        }


def test_a_pipeline_without_nodes_is_refused(workspace: Workspace) -> None:
    assert "jobs" in faults_of(workspace, "pipeline", jobs={}, outputs={})


def test_a_pipeline_may_be_a_component_that_it_names(workspace: Workspace) -> None:
    job_of(workspace, "nested")  # registers the component inner
    body = {
        "jobType": "Pipeline",
        "componentId": "azureml:inner:1",
        "inputs": {
            "data": {"uri": f"{LONG}/paths/LocalUpload/h/chats", "jobInputType": "uri_folder"},
            "rate": {"value": "0.3", "jobInputType": "literal"},
            "node_compute": {"value": "cpu-cluster", "jobInputType": "literal"},
        },
    }
    job = job_spec(workspace, "direct", {"properties": body})
    steps = steps_of(job)
    assert set(steps) == {"first", "second"}
    assert steps["first"].compute == "cpu-cluster"
    assert steps["first"].inputs["rate"] == Value("0.3")
    assert job.outputs["model"] == StepOutput("first", "model")


def test_inputs_of_a_named_component_are_checked_once(workspace: Workspace) -> None:
    job_of(workspace, "nested")
    inputs = {"rate": {"value": "fast", "jobInputType": "literal"}}
    body = {"jobType": "Pipeline", "componentId": "azureml:inner:1", "inputs": inputs}
    with pytest.raises(InputError) as refused:
        job_spec(workspace, "direct", {"properties": body})
    places = {fault.where for fault in refused.value.faults}
    assert places == {"inputs.rate", "inputs.data", "inputs.node_compute"}


def test_outputs_go_to_the_default_datastore_of_the_pipeline(workspace: Workspace) -> None:
    settings = {"default_datastore": "/subscriptions/s/workspaces/w/datastores/workspacefilestore"}
    job = job_of(workspace, "nested", settings=settings)
    uri = steps_of(job)["last"].outputs["report"].uri
    assert uri == "azureml://datastores/workspacefilestore/paths/azureml/${{name}}/report/"


def test_names_that_are_too_long_are_refused_beside_other_faults(workspace: Workspace) -> None:
    faults = faults_of(workspace, "command", experimentName="x" * 300, command="")
    assert set(faults) == {"experiment", "command"}


def test_data_that_a_step_of_the_job_will_write_need_not_be_there_yet(workspace: Workspace) -> None:
    job_of(workspace, "nested")
    place = "azureml://datastores/workspaceblobstore/paths/made/here"
    whole = sent("nested")["body"]["properties"]
    jobs = copy.deepcopy(whole["jobs"])
    jobs["one"]["inputs"]["data"] = {
        "job_input_type": "uri_folder",
        "uri": f"{LONG}/paths/made/here/x",
    }
    outputs = whole["outputs"] | {"best": {"jobOutputType": "custom_model", "uri": place}}
    assert job_of(workspace, "nested", jobs=jobs, outputs=outputs).steps
    assert set(faults_of(workspace, "nested", jobs=jobs)) == {"jobs.one/first.inputs.data"}


def test_settings_that_finery_does_not_know_change_nothing(workspace: Workspace) -> None:
    settings = {"default_datestore": "x", "continueOnStepFailure": True}
    assert job_of(workspace, "nested", settings=settings).continue_on_step_failure is True


def test_an_environment_that_is_not_there_is_refused(workspace: Workspace) -> None:
    faults = faults_of(workspace, "command", environmentId="azureml:no-such:1")
    assert set(faults) == {"environment"}
    assert "no-such" in faults["environment"].remedy


def test_a_compute_that_no_step_uses_has_to_be_there_all_the_same(workspace: Workspace) -> None:
    jobs = copy.deepcopy(sent("pipeline")["body"]["properties"]["jobs"])
    for node in jobs.values():
        node["computeId"] = "cpu-cluster"
    settings = {"default_compute": "gone-cluster"}
    assert set(faults_of(workspace, "pipeline", jobs=jobs, settings=settings)) == {"compute"}


@pytest.mark.parametrize(("name", "version"), [("..", ""), ("chats", "1"), ("a b", "1")])
def test_an_output_that_could_not_be_registered_is_refused_before_the_job_runs(
    workspace: Workspace, name: str, version: str
) -> None:
    made = {"jobOutputType": "uri_folder", "assetName": name, "assetVersion": version}
    (place,) = faults_of(workspace, "command", outputs={"made": made})
    assert place.startswith("outputs.made")


def test_what_has_no_effect_stands_in_a_property_of_the_job(workspace: Workspace) -> None:
    job = job_of(workspace, "command", resources={"instanceCount": 1, "shmSize": "16g"})
    (step,) = job.steps
    assert any("shm_size 16g" in note for note in step.notes)
    assert "shm_size 16g" in job.properties["finery.notes"]

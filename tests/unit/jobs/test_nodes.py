"""Nodes as people and clients write them: on the wire and in YAML."""

from __future__ import annotations

from typing import Any

import pytest

from finery.jobs.nodes import Node, NodeOutput, read_inputs, read_nodes, read_outputs, text_of
from finery.jobs.spec import Asset, Output, Value

WIRE = {
    "name": "train",
    "type": "command",
    "componentId": "azureml:train:1",
    "computeId": "/subscriptions/s/resourceGroups/g/workspaces/w/computes/gpu",
    "display_name": "Train",
    "inputs": {
        "lr": {"job_input_type": "literal", "value": "${{parent.inputs.lr}}"},
        "data": {"job_input_type": "uri_folder", "uri": "azureml:chats:1", "mode": "Download"},
        "bound": {"job_input_type": "literal", "value": "${{parent.inputs.d}}", "mode": "Download"},
        "none": None,
    },
    "outputs": {
        "model": {"value": "${{parent.outputs.trained}}", "type": "literal"},
        "other": {"job_output_type": "uri_folder", "uri": "azureml://datastores/d/paths/p"},
    },
    "environment_variables": {"A": 1, "B": True},
    "resources": {"instance_count": 2, "instance_type": "Standard_x"},
    "distribution": {"distribution_type": "PyTorch", "process_count_per_instance": 4},
    "_source": "CLASS",
}
YAML = {
    "type": "command",
    "component": "azureml:train:1",
    "inputs": {
        "lr": "${{parent.inputs.lr}}",
        "epochs": 3,
        "flag": True,
        "data": {"type": "uri_folder", "path": "azureml:chats:1", "mode": "ro_mount"},
    },
    "outputs": {"model": "${{parent.outputs.trained}}", "log": None, "up": {"mode": "upload"}},
}


def node(body: dict[str, Any]) -> Node:
    nodes, faults = read_nodes({"train": body}, "jobs")
    assert faults == []
    return nodes["train"]


def test_a_node_of_the_wire_is_read_whole() -> None:
    read = node(WIRE)
    assert read.component == "azureml:train:1"
    assert read.compute.endswith("/computes/gpu")
    assert (read.instance_count, read.process_count) == ("2", "4")
    assert read.environment_variables == {"A": "1", "B": "true"}
    assert read.inputs == {
        "lr": Value("${{parent.inputs.lr}}"),
        "data": Asset("azureml:chats:1", "uri_folder", "Download"),
        "bound": Value("${{parent.inputs.d}}"),
    }
    assert read.outputs == {
        "model": NodeOutput(Output(""), "trained"),
        "other": NodeOutput(Output("uri_folder", "azureml://datastores/d/paths/p")),
    }


def test_a_node_of_a_yaml_file_is_read_whole() -> None:
    read = node(YAML)
    assert read.inputs == {
        "lr": Value("${{parent.inputs.lr}}"),
        "epochs": Value("3"),
        "flag": Value("true"),
        "data": Asset("azureml:chats:1", "uri_folder", "ro_mount"),
    }
    assert read.outputs == {
        "model": NodeOutput(Output(""), "trained"),
        "log": NodeOutput(Output("")),
        "up": NodeOutput(Output("", mode="upload")),
    }


@pytest.mark.parametrize("kind", ["sweep", "spark", "parallel", "automl", "if_else", "do_while"])
def test_a_node_that_finery_cannot_run_is_named_with_its_type(kind: str) -> None:
    _, faults = read_nodes({"tune": {"type": kind, "trial": {}}}, "jobs")
    assert [(f.where, f.found) for f in faults] == [("jobs.tune.type", repr(kind))]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"type": "command"}, "jobs.a.componentId"),
        ({"type": "command", "componentId": {"name": "x"}}, "jobs.a.componentId"),
        ("train", "jobs.a"),
        ({"componentId": "c", "inputs": ["x"]}, "jobs.a.inputs"),
        ({"componentId": "c", "inputs": {"../x": 1}}, "jobs.a.inputs.../x"),
        ({"componentId": "c", "inputs": {"x": [1]}}, "jobs.a.inputs.x"),
        ({"componentId": "c", "inputs": {"x": {"job_input_type": "uri_file"}}}, "jobs.a.inputs.x"),
        (
            {"componentId": "c", "inputs": {"x": {"type": "odd", "uri": "u"}}},
            "jobs.a.inputs.x.type",
        ),
        ({"componentId": "c", "outputs": {"x": "somewhere"}}, "jobs.a.outputs.x"),
        ({"componentId": "c", "outputs": {"x": 3}}, "jobs.a.outputs.x"),
        ({"componentId": "c", "outputs": {"x": {"type": "odd"}}}, "jobs.a.outputs.x.type"),
        ({"componentId": "c", "outputs": {"a/b": None}}, "jobs.a.outputs.a/b"),
        ({"componentId": "c", "resources": 3}, "jobs.a.resources"),
        ({"componentId": "c", "distribution": "mpi"}, "jobs.a.distribution"),
        ({"componentId": "c", "environment_variables": []}, "jobs.a.environment_variables"),
    ],
)
def test_what_is_no_node_is_a_fault_at_its_place(body: Any, where: str) -> None:
    _, faults = read_nodes({"a": body}, "jobs")
    assert [fault.where for fault in faults] == [where]


@pytest.mark.parametrize("name", ["..", "a/b", "", "-a", "a b", ".hidden"])
def test_a_node_whose_name_could_leave_its_folder_is_refused(name: str) -> None:
    nodes, faults = read_nodes({name: WIRE}, "jobs")
    assert nodes == {}
    assert len(faults) == 1


def test_every_fault_of_every_node_is_found_in_one_pass() -> None:
    _, faults = read_nodes({"a": {"type": "sweep"}, "b": {"type": "command"}, "c": 1}, "jobs")
    assert [fault.where for fault in faults] == ["jobs.a.type", "jobs.b.componentId", "jobs.c"]


def test_jobs_that_are_no_mapping_are_a_fault() -> None:
    nodes, faults = read_nodes(["a"], "jobs")
    assert nodes == {}
    assert faults[0].where == "jobs"


def test_inputs_of_a_group_keep_their_dotted_names() -> None:
    inputs = read_inputs({"g.a": {"jobInputType": "literal", "value": "1"}}, "inputs", [])
    assert inputs == {"g.a": Value("1")}


def test_outputs_of_a_job_say_where_they_go_and_how_they_are_registered() -> None:
    said = {
        "assetName": "tuned",
        "assetVersion": "2",
        "uri": "azureml://datastores/d/paths/p",
        "mode": "Upload",
        "jobOutputType": "mlflow_model",
    }
    outputs = read_outputs({"model": said}, "outputs", [])
    uri = "azureml://datastores/d/paths/p"
    assert outputs == {"model": Output("mlflow_model", uri, "Upload", "tuned", "2")}


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (False, "false"), (1, "1"), (5e-06, "5e-06"), ("x", "x")]
)
def test_values_become_the_text_of_the_wire(value: Any, text: str) -> None:
    assert text_of(value) == text

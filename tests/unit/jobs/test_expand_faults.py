"""What is wrong with a pipeline: each fault at its place, and all of them at once."""

from __future__ import annotations

from typing import Any

import pytest
from pipeline_specs import (
    BOTH,
    DATA,
    SCORE,
    SPECS,
    TRAIN,
    data,
    fault,
    opened,
    steps,
    use,
)

from finery.jobs.spec import Output, Value


def test_a_step_has_its_inputs_defaults_code_and_command() -> None:
    step = steps({"a": use("train", data=data())})["a"]
    assert step.inputs == {"data": DATA, "lr": Value("0.1")}
    assert step.outputs == {"model": Output("mlflow_model")}
    assert step.code == "azureml:/subscriptions/s/codes/c/versions/1"
    assert step.component == "id of train"
    assert step.display_name == "Train"
    assert step.deterministic is True


def test_data_inside_a_text_is_refused() -> None:
    node = use("train", data=data(), note="x ${{parent.inputs.d}}")
    found = fault({"a": node}, {"d": DATA})
    assert found.where == "jobs.a.inputs.note"
    assert "literal" in found.expected


def test_what_the_job_does_not_give_is_left_to_the_components_default() -> None:
    node = use("train", data=data(), lr="${{parent.inputs.rate}}")
    assert steps({"a": node})["a"].inputs["lr"] == Value("0.1")


def test_steps_that_wait_for_each_other_are_refused() -> None:
    loop = SCORE | {"outputs": {"report": {"type": "mlflow_model"}}}
    jobs = {
        "a": use("loop", model="${{parent.jobs.b.outputs.report}}"),
        "b": use("loop", model="${{parent.jobs.a.outputs.report}}"),
    }
    assert "circle" in fault(jobs, specs={"loop": loop}).found


def test_an_output_of_the_job_that_nobody_writes_is_refused() -> None:
    found = fault({"a": use("train", data=data())}, outputs={"tuned": Output("mlflow_model")})
    assert (found.where, found.found) == ("outputs.tuned", "no node")


def test_an_output_of_the_job_that_two_nodes_write_is_refused() -> None:
    node = use("train", data=data()) | {"outputs": {"model": "${{parent.outputs.tuned}}"}}
    found = fault({"a": node, "b": node}, outputs={"tuned": Output("mlflow_model")})
    assert found.found == "a.model and b.model"


def test_a_node_cannot_write_an_output_that_the_job_has_not() -> None:
    node = use("train", data=data()) | {"outputs": {"model": "${{parent.outputs.tuned}}"}}
    found = fault({"a": node}, outputs={})
    assert found.where == "jobs.a.outputs.model"


def test_a_component_that_is_not_there_is_named_once_with_the_reason() -> None:
    jobs = {
        "a": use("gone", x="1"),
        "b": use("score", model="${{parent.jobs.a.outputs.model}}"),
    }
    faults = opened(jobs).faults
    assert ("jobs.a.componentId", "azureml:gone:1") in [(f.where, f.found) for f in faults]
    assert any("No component is called gone." in str(f) for f in faults)


@pytest.mark.parametrize(
    ("inputs", "where"),
    [
        ({"data": "text"}, "jobs.a.inputs.data"),
        ({}, "jobs.a.inputs.data"),
        ({"data": data(), "lr": "fast"}, "jobs.a.inputs.lr"),
        ({"data": data(), "rate": "1"}, "jobs.a.inputs.rate"),
        ({"data": data(), "lr": data()}, "jobs.a.inputs.lr"),
        ({"data": "${{parent.jobs.b.outputs.model}}"}, "jobs.a.inputs.data"),
        ({"data": "${{parent.things.b}}"}, "jobs.a.inputs.data"),
    ],
)
def test_what_does_not_fit_an_input_is_a_fault_at_that_input(
    inputs: dict[str, Any], where: str
) -> None:
    faults = opened({"a": use("train", **inputs)}).faults
    assert where in [found.where for found in faults]


def test_a_value_that_a_nested_pipeline_hands_on_is_found_wrong_once() -> None:
    found = fault({"tune": use("both", chats=data(), lr="fast")})
    assert found.where == "jobs.tune.inputs.lr"


def test_a_name_inside_a_component_that_it_does_not_declare_is_a_fault() -> None:
    node = BOTH["jobs"]["train"] | {"inputs": {"data": "${{parent.inputs.chatz}}"}}
    broken = BOTH | {"outputs": {}, "jobs": {"train": node | {"outputs": {}}}}
    faults = opened({"t": use("broken", chats=data())}, specs=SPECS | {"broken": broken}).faults
    assert any(f.remedy == "Did you mean chats?" for f in faults)


def test_everything_wrong_with_every_node_comes_at_once() -> None:
    jobs = {
        "a": use("train", data=data(), lr="fast"),
        "b": use("train"),
        "c": use("gone"),
        "d": use("score", model="${{parent.jobs.a.outputs.modle}}"),
    }
    places = {found.where for found in opened(jobs).faults}
    assert {"jobs.a.inputs.lr", "jobs.b.inputs.data", "jobs.c.componentId"} <= places
    assert "jobs.d.inputs.model" in places


def test_a_command_that_names_an_input_it_has_not_is_a_fault() -> None:
    spec = TRAIN | {"command": "train ${{inputs.note}} ${{inputs.data}}"}
    found = fault({"a": use("train", data=data())}, specs={"train": spec})
    assert (found.where, found.found) == ("jobs.a.command", "${{inputs.note}}")


@pytest.mark.parametrize("count", ["0", "-1", "1.5", "many", "nan", "inf"])
def test_a_count_that_is_no_count_is_a_fault(count: str) -> None:
    node = use("train", data=data()) | {"resources": {"instance_count": count}}
    assert fault({"a": node}).where == "jobs.a.resources.instance_count"


def test_a_component_that_is_no_command_is_a_fault() -> None:
    spec = {"name": "s", "type": "spark", "command": "x"}
    assert fault({"a": use("s")}, specs={"s": spec}).where == "jobs.a.componentId"


def test_a_pipeline_inside_itself_is_refused() -> None:
    loop = BOTH | {
        "outputs": {"model": {"type": "mlflow_model"}},
        "jobs": {
            "again": {
                "component": "azureml:loop:1",
                "inputs": {"chats": "${{parent.inputs.chats}}"},
                "outputs": {"model": "${{parent.outputs.model}}"},
            }
        },
    }
    jobs = {
        "t": use("loop", chats=data()),
        "s": use("score", model="${{parent.jobs.t.outputs.model}}"),
    }
    faults = opened(jobs, specs=SPECS | {"loop": loop}).faults
    assert any(f.where == "jobs.t/again.componentId" for f in faults)


def test_inputs_that_are_each_other_are_refused() -> None:
    jobs = {
        "a": use("train", data=data(), lr="${{parent.jobs.b.inputs.lr}}"),
        "b": use("train", data=data(), lr="${{parent.jobs.a.inputs.lr}}"),
    }
    assert {f.where for f in opened(jobs).faults} == {"jobs.a.inputs.lr", "jobs.b.inputs.lr"}


def test_pipelines_that_multiply_are_stopped() -> None:
    specs: dict[str, Any] = {"p0": TRAIN | {"inputs": {}, "command": "x"}}
    for level in range(1, 8):
        node = {"component": f"azureml:p{level - 1}:1"}
        jobs = {f"n{k}": node for k in range(10)}
        specs[f"p{level}"] = {"name": f"p{level}", "type": "pipeline", "jobs": jobs}
    faults = opened({"top": use("p7")}, specs=specs).faults
    assert [found.found for found in faults] == ["too many nodes"]


NESTED = {
    "type": "pipeline",
    "inputs": {"chats": {"type": "uri_folder"}},
    "outputs": {},
    "jobs": {"inner": {"type": "pipeline", "component": "azureml:wrong:1"}},
}
WRONG = {
    "type": "pipeline",
    "inputs": {},
    "outputs": {},
    "jobs": {
        "train": {"type": "spark", "component": "azureml:train:1"},
        "score": {"component": "azureml:score:1", "inputs": {"model": {"type": "x", "path": "p"}}},
        "a/b": {"component": "azureml:score:1"},
    },
}


def test_faults_inside_nested_pipelines_name_the_whole_path_of_the_inner_step() -> None:
    specs = SPECS | {"outer": NESTED, "wrong": WRONG}
    faults = opened({"tune": use("outer", chats=data())}, specs=specs).faults
    places = {found.where for found in faults}
    assert {
        "jobs.tune/inner/train.type",
        "jobs.tune/inner/score.inputs.model.type",
        "jobs.tune/inner/a/b",
    } <= places
    assert all(place.startswith("jobs.tune/inner/") for place in places), places


def test_a_nested_pipeline_without_nodes_is_named_by_its_path() -> None:
    specs = SPECS | {"outer": NESTED, "wrong": WRONG | {"jobs": ["train"]}}
    found = fault({"tune": use("outer", chats=data())}, specs=specs)
    assert (found.where, found.found) == ("jobs.tune/inner.jobs", "list")


def test_an_output_that_two_inner_nodes_write_names_both_by_their_paths() -> None:
    train = BOTH["jobs"]["train"]
    twice = BOTH | {"jobs": {"one": train, "two": train, "score": BOTH["jobs"]["score"]}}
    jobs = {
        "tune": use("twice", chats=data()),
        "eval": use("score", model="${{parent.jobs.tune.outputs.model}}"),
    }
    faults = opened(jobs, specs=SPECS | {"twice": twice}).faults
    found = {(f.where, f.found) for f in faults}
    assert ("jobs.eval.inputs.model", "tune/one.model and tune/two.model") in found

"""Pipelines opened: bindings, defaults, outputs, nested pipelines, computes."""

from __future__ import annotations

from pipeline_specs import (
    DATA,
    SPECS,
    TRAIN,
    data,
    lookup_of,
    opened,
    steps,
    use,
)

from finery.jobs.bindings import Pipeline
from finery.jobs.declared import Component
from finery.jobs.expand import expand
from finery.jobs.nodes import read_nodes
from finery.jobs.spec import Asset, Output, StepOutput, Value


def test_an_optional_part_of_a_command_stays_when_its_input_is_given() -> None:
    assert steps({"a": use("train", data=data())})["a"].command.endswith("${{inputs.lr}} ")
    given = steps({"a": use("train", data=data(), note="hi")})["a"]
    assert given.command.endswith("--note ${{inputs.note}}")


def test_bindings_to_the_inputs_of_the_job_are_followed() -> None:
    node = use("train", data="${{parent.inputs.chats}}", lr="${{parent.inputs.rate}}")
    step = steps({"a": node}, {"chats": DATA, "rate": Value("2")})["a"]
    assert step.inputs == {"data": DATA, "lr": Value("2")}


def test_a_mode_said_at_the_node_holds_for_the_bound_data() -> None:
    bound = {"type": "uri_folder", "path": "${{parent.inputs.chats}}", "mode": "download"}
    step = steps({"a": use("train", data=bound)}, {"chats": DATA})["a"]
    assert step.inputs["data"] == Asset(DATA.uri, DATA.type, "download")


def test_a_binding_inside_a_text_becomes_part_of_it() -> None:
    node = use("train", data=data(), note="run-${{parent.inputs.n}}-${{parent.inputs.n}}")
    assert steps({"a": node}, {"n": Value("7")})["a"].inputs["note"] == Value("run-7-7")


def test_an_input_of_another_node_can_be_shared() -> None:
    jobs = {
        "a": use("train", data=data(), lr="3"),
        "b": use("train", data=data(), lr="${{parent.jobs.a.inputs.lr}}"),
    }
    assert steps(jobs)["b"].inputs["lr"] == Value("3")


def test_steps_come_after_those_whose_outputs_they_read() -> None:
    jobs = {
        "z_last": use("score", model="${{parent.jobs.first.outputs.model}}"),
        "first": use("train", data=data()),
    }
    expanded = opened(jobs)
    assert [step.path for step in expanded.steps] == ["first", "z_last"]
    assert expanded.steps[1].inputs == {"model": StepOutput("first", "model")}


def test_the_outputs_of_a_job_lead_to_the_steps_that_write_them() -> None:
    node = use("train", data=data()) | {"outputs": {"model": "${{parent.outputs.tuned}}"}}
    asked = Output("mlflow_model", "azureml://datastores/d/paths/p", "upload", "name", "1")
    expanded = opened({"a": node}, outputs={"tuned": asked})
    assert expanded.faults == ()
    assert expanded.outputs == {"tuned": StepOutput("a", "model")}
    assert expanded.steps[0].outputs == {"model": asked}


def test_the_kind_of_an_output_is_what_the_component_writes() -> None:
    node = use("train", data=data()) | {"outputs": {"model": "${{parent.outputs.tuned}}"}}
    expanded = opened({"a": node}, outputs={"tuned": Output("uri_folder", mode="upload")})
    assert expanded.steps[0].outputs["model"] == Output("mlflow_model", mode="upload")


def test_a_nested_pipeline_becomes_steps_below_its_name() -> None:
    node = use("both", chats="${{parent.inputs.chats}}", where="big")
    expanded = opened({"tune": node}, {"chats": DATA})
    assert expanded.faults == ()
    train, score = expanded.steps
    assert (train.path, score.path) == ("tune/train", "tune/score")
    assert train.inputs == {"data": DATA, "lr": Value("0.5")}
    assert train.compute == "big"
    assert score.inputs == {"model": StepOutput("tune/train", "model")}


def test_the_outputs_of_a_nested_pipeline_can_be_read_and_returned() -> None:
    jobs = {
        "tune": use("both", chats=data()) | {"outputs": {"model": "${{parent.outputs.best}}"}},
        "check": use("score", model="${{parent.jobs.tune.outputs.model}}"),
    }
    asked = Output("mlflow_model", name="best")
    expanded = opened(jobs, outputs={"best": asked})
    assert expanded.faults == ()
    by_path = {step.path: step for step in expanded.steps}
    assert expanded.outputs == {"best": StepOutput("tune/train", "model")}
    assert by_path["check"].inputs == {"model": StepOutput("tune/train", "model")}
    assert by_path["tune/train"].outputs["model"] == asked


def test_pipelines_nest_as_deep_as_people_write_them() -> None:
    outer = {
        "name": "outer",
        "type": "pipeline",
        "inputs": {"chats": {"type": "uri_folder"}},
        "outputs": {"model": {"type": "mlflow_model"}},
        "jobs": {
            "inner": {
                "type": "pipeline",
                "component": "azureml:both:1",
                "inputs": {"chats": "${{parent.inputs.chats}}"},
                "outputs": {"model": "${{parent.outputs.model}}"},
            }
        },
    }
    jobs = {
        "o": use("outer", chats=data()),
        "s": use("score", model="${{parent.jobs.o.outputs.model}}"),
    }
    by_path = steps(jobs, specs=SPECS | {"outer": outer})
    assert set(by_path) == {"o/inner/train", "o/inner/score", "s"}
    assert by_path["s"].inputs == {"model": StepOutput("o/inner/train", "model")}


def test_short_names_in_a_component_of_a_registry_mean_that_registry() -> None:
    asked = []

    def lookup(reference: str, registry: str) -> Component:
        asked.append((reference, registry))
        found = lookup_of(SPECS)(reference, registry)
        return Component(found.id, found.spec, "azureml" if "both" in reference else registry)

    nodes, _ = read_nodes({"t": use("both", chats=data())}, "jobs")
    assert expand(Pipeline(nodes), lookup).faults == ()
    assert asked == [
        ("azureml:both:1", ""),
        ("azureml:train:1", "azureml"),
        ("azureml:score:1", "azureml"),
    ]


def test_computes_come_from_the_node_the_pipeline_or_this_machine() -> None:
    arm = "/subscriptions/s/resourceGroups/g/providers/p/workspaces/w/computes/{}"
    node = use("train", data=data())
    assert steps({"a": node})["a"].compute == ""
    assert steps({"a": node}, compute="base")["a"].compute == "base"
    named = node | {"computeId": arm.format("gpu")}
    assert steps({"a": named}, compute="base")["a"].compute == "gpu"
    bound = node | {"compute": "${{parent.inputs.where}}"}
    assert steps({"a": bound}, {"where": Value("cpu")})["a"].compute == "cpu"
    assert steps({"a": node | {"compute": "serverless"}}, compute="base")["a"].compute == ""


def test_counts_come_from_the_node_else_from_the_component() -> None:
    spec = TRAIN | {
        "resources": {"instance_count": 2},
        "distribution": {"type": "pytorch", "process_count_per_instance": 3},
    }
    step = steps({"a": use("train", data=data())}, specs={"train": spec})["a"]
    assert (step.instance_count, step.process_count) == (2, 3)
    node = use("train", data=data()) | {
        "resources": {"instance_count": "${{parent.inputs.n}}"},
        "distribution": {"process_count_per_instance": 4},
    }
    step = steps({"a": node}, {"n": Value("5")}, specs={"train": spec})["a"]
    assert (step.instance_count, step.process_count) == (5, 4)


def test_the_environment_of_a_component_is_changed_by_the_node() -> None:
    spec = TRAIN | {"environment_variables": {"A": "1", "B": True}}
    node = use("train", data=data()) | {"environment_variables": {"A": "${{parent.inputs.a}}"}}
    step = steps({"a": node}, {"a": Value("2")}, specs={"train": spec})["a"]
    assert step.environment_variables == {"A": "2", "B": "true"}


def test_a_built_in_step_has_an_entry_and_no_command() -> None:
    step = steps({"a": use("train", data=data())}, specs={"train": TRAIN | {"command": "finery:x"}})
    assert (step["a"].entry, step["a"].command) == ("finery:x", "")


def test_groups_of_inputs_are_bound_one_by_one() -> None:
    spec = {
        "name": "grouped",
        "type": "pipeline",
        "inputs": {
            "chats": {"type": "uri_folder"},
            "g": {"type": "group", "values": {"lr": {"type": "number", "default": "4"}}},
        },
        "jobs": {
            "train": {
                "component": "azureml:train:1",
                "inputs": {"data": "${{parent.inputs.chats}}", "lr": "${{parent.inputs.g.lr}}"},
            }
        },
    }
    specs = SPECS | {"grouped": spec}
    plain = steps({"t": use("grouped", chats=data())}, specs=specs)
    assert plain["t/train"].inputs["lr"] == Value("4")
    node = {"component": "azureml:grouped:1", "inputs": {"chats": data(), "g.lr": "9"}}
    assert steps({"t": node}, specs=specs)["t/train"].inputs["lr"] == Value("9")


def test_a_time_limit_comes_from_the_node_else_from_the_component() -> None:
    spec = TRAIN | {"limits": {"timeout": 60}}
    node = use("train", data=data())
    assert steps({"a": node}, specs={"train": spec})["a"].timeout_seconds == 60
    limited = node | {"limits": {"timeout": "PT1M40S", "job_limits_type": "Command"}}
    assert steps({"a": limited}, specs={"train": spec})["a"].timeout_seconds == 100
    assert steps({"a": node})["a"].timeout_seconds == 0


def test_a_step_whose_logs_are_an_output_is_not_reused() -> None:
    spec = TRAIN | {"outputs": {"artifacts": {"type": "uri_folder"}}}
    assert (
        steps({"a": use("train", data=data())}, specs={"train": spec})["a"].deterministic is False
    )

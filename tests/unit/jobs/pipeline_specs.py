"""Components for tests of opened pipelines, and short ways to open one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finery.errors import Fault
from finery.jobs.bindings import Pipeline
from finery.jobs.declared import Component, Lookup
from finery.jobs.expand import Expanded, expand
from finery.jobs.nodes import read_nodes
from finery.jobs.spec import Asset, Output, StepSpec
from finery.workspace.errors import NotFoundError

DATA = Asset("azureml:chats:1", "uri_folder")
TRAIN = {
    "name": "train",
    "type": "command",
    "display_name": "Train",
    "inputs": {
        "data": {"type": "uri_folder"},
        "lr": {"type": "number", "default": "0.1"},
        "note": {"type": "string", "optional": True},
    },
    "outputs": {"model": {"type": "mlflow_model"}},
    "code": "azureml:/subscriptions/s/codes/c/versions/1",
    "command": "train ${{inputs.data}} ${{inputs.lr}} $[[--note ${{inputs.note}}]]",
    "is_deterministic": True,
}
SCORE = {
    "name": "score",
    "type": "command",
    "inputs": {"model": {"type": "mlflow_model"}},
    "outputs": {"report": {"type": "uri_file"}},
    "command": "score ${{inputs.model}} > ${{outputs.report}}",
    "is_deterministic": False,
}
BOTH = {
    "name": "both",
    "type": "pipeline",
    "inputs": {
        "chats": {"type": "uri_folder"},
        "lr": {"type": "number", "default": 0.5},
        "note": {"type": "string", "optional": True},
        "where": {"type": "string", "default": "small"},
    },
    "outputs": {"model": {"type": "mlflow_model"}, "report": {"type": "uri_file"}},
    "jobs": {
        "train": {
            "type": "command",
            "component": "azureml:train:1",
            "compute": "${{parent.inputs.where}}",
            "inputs": {
                "data": "${{parent.inputs.chats}}",
                "lr": "${{parent.inputs.lr}}",
                "note": "${{parent.inputs.note}}",
            },
            "outputs": {"model": "${{parent.outputs.model}}"},
        },
        "score": {
            "type": "command",
            "component": "azureml:score:1",
            "inputs": {"model": "${{parent.jobs.train.outputs.model}}"},
            "outputs": {"report": "${{parent.outputs.report}}"},
        },
    },
}
SPECS = {"train": TRAIN, "score": SCORE, "both": BOTH}


def lookup_of(specs: Mapping[str, Mapping[str, Any]]) -> Lookup:
    def lookup(reference: str, registry: str) -> Component:
        name = reference.removeprefix("azureml:").partition(":")[0]
        if name not in specs:
            raise NotFoundError(f"No component is called {name}.")
        return Component(f"id of {name}", specs[name], registry)

    return lookup


def opened(
    jobs: Mapping[str, Any],
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Output] | None = None,
    specs: Mapping[str, Mapping[str, Any]] = SPECS,
    **more: Any,
) -> Expanded:
    nodes, faults = read_nodes(jobs, "jobs")
    assert faults == []
    return expand(Pipeline(nodes, inputs or {}, outputs or {}, **more), lookup_of(specs))


def steps(*args: Any, **more: Any) -> dict[str, StepSpec]:
    expanded = opened(*args, **more)
    assert expanded.faults == ()
    return {step.path: step for step in expanded.steps}


def fault(*args: Any, **more: Any) -> Fault:
    faults = opened(*args, **more).faults
    assert len(faults) == 1, faults
    return faults[0]


def use(component: str, **inputs: Any) -> dict[str, Any]:
    return {"component": f"azureml:{component}:1", "inputs": inputs}


def data() -> dict[str, str]:
    return {"type": "uri_folder", "path": DATA.uri}

"""What a job is made of, as values: steps, what each reads and writes, and the body as submitted.

A specification has no open names any more: components, defaults and nested pipelines are
resolved before, and every input is a literal, an asset, or the output of an earlier step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

BUILT_IN = "finery:"  # what the entry of a step that finery ships begins with


@dataclass(frozen=True)
class Value:
    """A literal; every literal is text, as on the wire."""

    text: str


@dataclass(frozen=True)
class Asset:
    """A file, a folder or a model, by any reference that the workspace resolves."""

    uri: str
    type: str  # uri_file, uri_folder, mltable, mlflow_model, custom_model
    mode: str = ""


@dataclass(frozen=True)
class StepOutput:
    """The output of another step of the same job, which therefore runs first."""

    step: str  # the step's path
    output: str


Binding = Value | Asset | StepOutput


@dataclass(frozen=True)
class Output:
    """A place that a step writes. `name` asks for a registered asset when the job completes."""

    type: str
    uri: str = ""  # "" is azureml/<job>/<output> of the default datastore
    mode: str = ""
    name: str = ""
    version: str = ""


@dataclass(frozen=True)
class StepSpec:
    """One process to run. `entry` is "finery:NAME" of a built-in step; otherwise `command` is a
    bash text in which ${{inputs.x}} and ${{outputs.y}} stand for values and paths.
    """

    path: str  # "finetune", "tune/finetune" of a nested pipeline; "" of a command job
    display_name: str = ""
    component: str = ""  # the id of the component version, for people and for reuse
    entry: str = ""
    command: str = ""
    code: str = ""  # the id of a code asset, whose files are the working folder
    inputs: Mapping[str, Binding] = field(default_factory=dict)
    outputs: Mapping[str, Output] = field(default_factory=dict)
    environment_variables: Mapping[str, str] = field(default_factory=dict)
    compute: str = ""  # the name of a compute; "" and "serverless" are this machine
    instance_count: int = 1
    process_count: int = 1  # processes an instance
    timeout_seconds: int = 0  # after which a running step is ended; 0 is never
    deterministic: bool = True  # whether its outputs may be reused
    environment: str = ""  # as it was named; commands run in finery's own
    notes: tuple[str, ...] = ()  # what was asked for and has no effect, for the log

    @property
    def name(self) -> str:
        """The last word of the path: how logs call the step."""
        return self.path.rpartition("/")[2]

    @property
    def reads(self) -> frozenset[str]:
        """The paths of the steps that must complete before this one starts."""
        return frozenset(b.step for b in self.inputs.values() if isinstance(b, StepOutput))


@dataclass(frozen=True)
class JobSpec:
    """A job to run. A command job has one step, whose path is "": the job is the step."""

    name: str
    type: str  # pipeline, command, finetuning
    steps: tuple[StepSpec, ...]
    experiment: str = "Default"
    display_name: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, Binding] = field(default_factory=dict)
    outputs: Mapping[str, StepOutput | Output] = field(default_factory=dict)
    force_rerun: bool = False
    continue_on_step_failure: bool = False
    compute: str = ""
    services: Mapping[str, Any] = field(default_factory=dict)
    wire: Mapping[str, Any] = field(default_factory=dict)  # the submitted body, echoed

    def step(self, path: str) -> StepSpec:
        """The step at `path`; raises KeyError."""
        return {step.path: step for step in self.steps}[path]


_KINDS: dict[str, type[Any]] = {
    "value": Value,
    "asset": Asset,
    "step_output": StepOutput,
    "output": Output,
}
_WORDS = {kind: word for word, kind in _KINDS.items()}


def step_to_json(step: StepSpec) -> dict[str, Any]:
    """A step as JSON."""
    fields = {name: getattr(step, name) for name in StepSpec.__dataclass_fields__}
    return fields | {
        "inputs": _pack(step.inputs),
        "outputs": _pack(step.outputs),
        "environment_variables": dict(step.environment_variables),
        "notes": list(step.notes),
    }


def step_from_json(value: Mapping[str, Any]) -> StepSpec:
    """The step that `step_to_json` wrote."""
    bound = {"inputs": _unpack(value["inputs"]), "outputs": _unpack(value["outputs"])}
    return StepSpec(**{**value, **bound, "notes": tuple(value.get("notes", ()))})


def job_to_json(job: JobSpec) -> dict[str, Any]:
    """A job as JSON."""
    fields = {name: getattr(job, name) for name in JobSpec.__dataclass_fields__}
    return fields | {
        "steps": [step_to_json(step) for step in job.steps],
        "inputs": _pack(job.inputs),
        "outputs": _pack(job.outputs),
        **{name: dict(fields[name]) for name in ("tags", "properties", "services", "wire")},
    }


def job_from_json(value: Mapping[str, Any]) -> JobSpec:
    """The job that `job_to_json` wrote."""
    made = {
        "steps": tuple(step_from_json(step) for step in value["steps"]),
        "inputs": _unpack(value["inputs"]),
        "outputs": _unpack(value["outputs"]),
    }
    return JobSpec(**{**value, **made})


def _pack(bindings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {"kind": _WORDS[type(b)], **asdict(b)} for name, b in bindings.items()}


def _unpack(value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _KINDS[fields["kind"]](**{k: v for k, v in fields.items() if k != "kind"})
        for name, fields in value.items()
    }
